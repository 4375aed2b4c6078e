package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/server"
)

func (a *app) tokensCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tokens",
		Short: "List the tokens by which machines call the server",
		Long: `List the tokens by which machines call the server of this ledger. Only a hash of
each is kept. A running server takes and refuses them at once.

reader: asks. recorder: hands in statements, and the bytes they speak of.
restorer: reads bytes and has the server restore. admin: everything.`,
		Example: "  retrace tokens\n  retrace tokens create ci --role recorder --namespace team-a --for 720h\n  retrace tokens revoke ci",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			dir, err := a.findDir()
			if err != nil {
				return err
			}
			tokens, err := server.ReadTokens(dir)
			if err != nil {
				return cannot(err)
			}
			return a.listTokens(cmd, tokens)
		},
	}
	cmd.AddCommand(a.createTokenCmd(), a.revokeTokenCmd())
	return cmd
}

// tokenJSON is a token as it is listed. Its hash is left out.
type tokenJSON struct {
	Name       string        `json:"name"`
	Roles      []server.Role `json:"roles"`
	Namespaces []string      `json:"namespaces"`
	Created    time.Time     `json:"created"`
	Expires    time.Time     `json:"expires"`
	Expired    bool          `json:"expired"`
	Token      string        `json:"token,omitempty"` // when it is made
}

func listed(t server.Token) tokenJSON {
	return tokenJSON{
		Name: t.Name, Roles: t.Roles, Namespaces: append([]string{}, t.Namespaces...),
		Created: t.Created, Expires: t.Expires, Expired: !time.Now().Before(t.Expires),
	}
}

func (a *app) listTokens(cmd *cobra.Command, tokens []server.Token) error {
	if a.output == "json" {
		list := []tokenJSON{}
		for _, t := range tokens {
			list = append(list, listed(t))
		}
		return printJSON(cmd.OutOrStdout(), list)
	}
	if len(tokens) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "no tokens were made")
		return err
	}
	table := newTable(cmd.OutOrStdout(), "NAME", "ROLES", "NAMESPACES", "CREATED", "EXPIRES")
	for _, t := range tokens {
		l := listed(t)
		expires := l.Expires.Format(time.RFC3339)
		if l.Expired {
			expires += " (expired)"
		}
		namespaces := strings.Join(l.Namespaces, ",")
		if namespaces == "" {
			namespaces = "all"
		}
		table.row(l.Name, joinRoles(l.Roles), namespaces, l.Created.Format(time.RFC3339), expires)
	}
	return table.flush()
}

func joinRoles(roles []server.Role) string {
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, ",")
}

func (a *app) createTokenCmd() *cobra.Command {
	var roles, namespaces []string
	var span time.Duration
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token and print it, for the only time",
		Long: `Make a token by which a machine may call the server, and print it, for the only
time. --namespace is where a recorder may record; asking is not limited by it.`,
		Example: "  retrace tokens create ci --role recorder --namespace team-a --for 720h\n  retrace tokens create notebook --role reader",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			dir, err := a.findDir()
			if err != nil {
				return err
			}
			now := time.Now().UTC().Truncate(time.Second)
			t := server.Token{Name: args[0], Namespaces: namespaces, Created: now, Expires: now.Add(span)}
			for _, r := range roles {
				if !slices.Contains(t.Roles, server.Role(r)) {
					t.Roles = append(t.Roles, server.Role(r))
				}
			}
			secret, err := server.CreateToken(dir, t)
			if err != nil {
				return cannot(err)
			}
			if a.output == "json" {
				l := listed(t)
				l.Token = secret
				return printJSON(cmd.OutOrStdout(), l)
			}
			fmt.Fprintln(cmd.OutOrStdout(), secret)
			fmt.Fprintf(cmd.ErrOrStderr(), "retrace: token %s (%s) until %s; it is not shown again\n", t.Name, joinRoles(t.Roles), t.Expires.Format(time.RFC3339))
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&roles, "role", nil, "`ROLE`: reader, recorder, restorer or admin; may be repeated")
	cmd.Flags().StringSliceVar(&namespaces, "namespace", nil, "`NAMESPACE` that a recorder may record in; all if none is given")
	cmd.Flags().DurationVar(&span, "for", 90*24*time.Hour, "`SPAN` until it expires")
	return cmd
}

func (a *app) revokeTokenCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke NAME",
		Short:   "Have a token refused from now on",
		Example: "  retrace tokens revoke ci",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := a.findDir()
			if err != nil {
				return err
			}
			if err := server.RevokeToken(dir, args[0]); err != nil {
				return cannot(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "revoked %s\n", printable(args[0]))
			return nil
		},
	}
}
