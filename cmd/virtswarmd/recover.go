package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/virtswarm/virtswarm/hostd"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// recoverCommand is "virtswarmd recover".
func recoverCommand() *cobra.Command {
	var config, data string
	var without []string
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "recover [--without HOST,HOST…]",
		Short: "Go on after the majority of the voters is lost for good",
		Long: `Recover works while the daemon of this host is stopped and those of the other survivors run.

Without --without it changes nothing: it shows how far the log of each survivor is. With it, this host becomes the first
of a cluster without the hosts that are named, from where its log ends; start its daemon then, and the other survivors
follow by themselves. Recover at the host whose log is the most advanced: what only others have is lost otherwise.

A host that was removed in this way must never be started with its old data directory: it joins anew, with a new one.
docs/operations.md, "When it is bad", has the whole procedure.`,
		Example: "  virtswarmd recover --config /etc/virtswarm/virtswarm.yaml\n" +
			"  virtswarmd recover --config /etc/virtswarm/virtswarm.yaml --without hv3,hv4,hv5",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := hostd.LoadConfig(config)
			if err != nil {
				return reason.Explain(err, "")
			}
			if err := override(&cfg, hostd.Config{Data: data}); err != nil {
				return err
			}
			return reason.Explain(recoverCluster(cmd.Context(), cmd.OutOrStdout(), cfg, without, force, asJSON), "")
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", "", "YAML file of the daemon")
	f.StringVar(&data, "data", "", "directory that holds everything (default "+hostd.DefaultData+")")
	f.StringSliceVar(&without, "without", nil, "names of the hosts that are lost for good")
	f.BoolVar(&force, "force", false, "also if a survivor has more, does not answer, or is among the lost")
	f.BoolVar(&asJSON, "json", false, "print JSON: one object")
	return cmd
}

func recoverCluster(ctx context.Context, out io.Writer, cfg hostd.Config, without []string, force, asJSON bool) (err error) {
	r, err := hostd.OpenRecovery(cfg, hostd.Options{FS: dataDisk(), Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr})})
	if err != nil {
		return err
	}
	defer func() {
		if closed := r.Close(); err == nil {
			err = closed
		}
	}()
	members := r.Survey(ctx)
	if len(without) > 0 {
		if err := r.Recover(members, without, force); err != nil {
			return err
		}
	}
	if asJSON {
		return printRecoveryJSON(out, r, members, without)
	}
	return printRecovery(out, r, members, without)
}

// recoveryShape is what --json prints.
type recoveryShape struct {
	Cluster   string          `json:"cluster_id"`
	Recovered bool            `json:"recovered"`
	Hosts     []survivorShape `json:"hosts"`
}

type survivorShape struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Address string `json:"address"`
	Self    bool   `json:"self"`
	Voter   bool   `json:"voter"`
	Answers bool   `json:"answers"`
	Why     string `json:"why,omitempty"`
	Refuses bool   `json:"refuses"`
	Term    uint64 `json:"term"`
	Index   uint64 `json:"index"`
}

func printRecoveryJSON(out io.Writer, r *hostd.Recovery, members []hostd.Survivor, without []string) error {
	shape := recoveryShape{Cluster: r.Cluster(), Recovered: len(without) > 0, Hosts: []survivorShape{}}
	for _, m := range members {
		shape.Hosts = append(shape.Hosts, survivorShape{
			ID: string(m.ID), Name: m.Name, Address: m.Addr, Self: m.Self, Voter: m.Voter, Answers: m.Answers, Why: m.Why, Refuses: m.Refuses,
			Term: m.End.Term, Index: m.End.Index,
		})
	}
	return json.NewEncoder(out).Encode(shape)
}

func printRecovery(out io.Writer, r *hostd.Recovery, members []hostd.Survivor, without []string) error {
	fmt.Fprintf(out, "cluster %s, as this host knows it:\n\n", r.Cluster())
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "HOST\tADDRESS\tVOTES\tANSWERS\tLAST ENTRY")
	best, silent := members[0], []string{}
	var refusing hostd.Survivor
	for _, m := range members {
		votes, answers, end := "no", "yes", fmt.Sprintf("%d of term %d", m.End.Index, m.End.Term)
		if m.Voter {
			votes = "yes"
		}
		switch {
		case m.Self:
			answers = "this host"
		case m.Refuses:
			answers, end = "refuses", "unknown: "+m.Why
			refusing = m
		case !m.Answers:
			answers, end = "no", "unknown: "+m.Why
			silent = append(silent, m.Name)
		}
		if m.Answers && (!best.Answers || best.End.Behind(m.End) || m.Self && !m.End.Behind(best.End)) {
			best = m
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.Addr, votes, answers, end)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	var next string
	switch {
	case len(without) > 0:
		next = fmt.Sprintf("Recovered without %s. Start the daemon here: the other survivors follow by themselves.\n"+
			"Hosts that were removed join anew, with an empty data directory.", strings.Join(without, ", "))
	case refusing.Refuses:
		next = fmt.Sprintf("%s is up and goes on without this host. Let this host join anew: virtswarmd --join %s --token T", refusing.Name, refusing.Addr)
	case !best.Self:
		next = fmt.Sprintf("%s has the most advanced log: start the daemon here again, stop it on %s, and recover there.", best.Name, best.Name)
	case len(silent) == 0:
		next = "All hosts answer: start the daemon here, there is nothing to recover."
	default:
		next = fmt.Sprintf("This host has the most advanced log of those that answer. If the others are lost for good:\n  virtswarmd recover --without %s",
			strings.Join(silent, ","))
	}
	_, err := fmt.Fprintf(out, "\n%s\n", next)
	return err
}
