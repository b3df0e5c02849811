package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/internal/certs"
)

func (a *app) certs() *cobra.Command {
	return chooser(&cobra.Command{
		Use: "certs", Short: "make certificates",
		Long: "Makes the certificates nodes know each other by. The authority's key signs; keep\n" +
			"it away from the nodes. etcd has an authority of its own.",
		Example: "  waggle certs ca --dir ca\n" +
			"  waggle certs node --ca ca --role cell --cell c1 --node c1-n1 --out certs\n" +
			"  waggle certs web --ca ca --host chat.example.org --out certs",
	}, a.certsCA(), a.certsNode(), a.certsWeb())
}

func (a *app) certsCA() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "ca", Short: "make an authority", Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if _, err := os.Stat(filepath.Join(dir, certs.CAKeyFile)); err == nil {
				return refused(fmt.Errorf("%s holds an authority already: every certificate of the cluster hangs on it; choose another --dir", dir))
			}
			if _, err := certs.CreateAuthority(dir); err != nil {
				return err
			}
			return a.wrote(filepath.Join(dir, certs.CAFile), filepath.Join(dir, certs.CAKeyFile))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "ca", "`DIR` for ca.pem and ca-key.pem")
	return cmd
}

// leaf are the flags of certificates that an authority signs.
type leaf struct {
	ca, out string
	hosts   []string
}

func leafFlags(cmd *cobra.Command) *leaf {
	l := new(leaf)
	cmd.Flags().StringVar(&l.ca, "ca", "ca", "`DIR` of the authority")
	cmd.Flags().StringVar(&l.out, "out", "certs", "`DIR` for NAME.pem and NAME-key.pem, which are replaced")
	cmd.Flags().StringSliceVar(&l.hosts, "host", nil, "`NAME` or address others use, besides localhost; can be repeated")
	return l
}

func (a *app) certsNode() *cobra.Command {
	var id certs.Identity
	cmd := &cobra.Command{Use: "node --role ROLE --node NAME", Short: "make a node's certificate", Args: args(0, 0)}
	l := leafFlags(cmd)
	cmd.Flags().StringVar(&id.Role, "role", "", "controlplane, cell, edge, etcd or operator")
	cmd.Flags().StringVar(&id.Cell, "cell", "", "the `CELL` of a cell node, as in c1")
	cmd.Flags().StringVar(&id.Node, "node", "", "the node's `NAME`, as in c1-n1")
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := id.Validate(); err != nil {
			return usagef("%w", err)
		}
		return a.issue(l, id.Node, func(ca *certs.Authority, pair certs.Pair) error { return ca.IssueNode(pair, id, l.hosts...) })
	}
	return cmd
}

func (a *app) certsWeb() *cobra.Command {
	var name string
	cmd := &cobra.Command{Use: "web", Short: "make a certificate for edges' client ports", Args: args(0, 0)}
	l := leafFlags(cmd)
	cmd.Flags().StringVar(&name, "name", "web", "`NAME` of the files")
	cmd.RunE = func(*cobra.Command, []string) error {
		return a.issue(l, name, func(ca *certs.Authority, pair certs.Pair) error { return ca.IssueWeb(pair, l.hosts...) })
	}
	return cmd
}

func (a *app) issue(l *leaf, name string, sign func(*certs.Authority, certs.Pair) error) error {
	ca, err := certs.LoadAuthority(l.ca)
	if err != nil {
		return fmt.Errorf("%w: make one with `waggle certs ca --dir %s`, or name it with --ca", err, l.ca)
	}
	pair := certs.PairIn(l.out, name)
	if err := sign(ca, pair); err != nil {
		return err
	}
	return a.wrote(pair.CertFile, pair.KeyFile)
}

func (a *app) wrote(files ...string) error {
	for _, f := range files {
		if _, err := fmt.Fprintln(a.out, f); err != nil {
			return err
		}
	}
	return nil
}
