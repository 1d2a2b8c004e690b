// Package virtswarmv1connect holds the generated clients and handlers of the control API, version 1;
// this file alone is written by hand. Package api wraps the clients, hostd/server the handlers.
package virtswarmv1connect
