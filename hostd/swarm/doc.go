// Package swarm moves chunks between hosts: it fetches the missing chunks of a file from several hosts at once, and
// serves what this host already has while it is still fetching.
//
// It promises that
//   - a chunk is verified against its digest before it is stored, announced or served;
//   - a peer that lies is dropped and shunned, one that stalls is put aside, one that dies is forgotten, and in each
//     case its requests go elsewhere at once while everything else goes on;
//   - callers that want chunks of the same file share one job and one flight a chunk; whoever is more urgent goes first;
//   - memory and sessions are bounded by the named limits, whatever peers do;
//   - when the last caller is gone nothing is requested any more, and after Close nothing runs.
//
// Which hosts hold a file is asked of a Directory (the catalogue); who else fetches it now is learned from the peers,
// who introduce their followers to one another. Nothing here is durable, and nothing is written to the catalogue.
//
// How a download walks is told in docs/swarm.md.
package swarm
