package main

import (
	"context"

	"github.com/spf13/cobra"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

// auditMax bounds the lines of one answer: as many as are kept.
const auditMax = 10_000

type auditJSON struct {
	Time      string `json:"time"`
	Who       string `json:"who"`
	Verb      string `json:"verb"`
	Arguments string `json:"arguments"`
	Outcome   string `json:"outcome"` // done, or the refusal
}

func auditOf(r *controlpb.AuditRecord) auditJSON {
	return auditJSON{
		jsonTime(r.GetTimeMs()), r.GetWho(), r.GetVerb(), r.GetArguments(), r.GetOutcome(),
	}
}

func auditColumns() []column[auditJSON] {
	return []column[auditJSON]{
		{"TIME", false, func(l auditJSON) string { return l.Time }},
		{"WHO", false, func(l auditJSON) string { return harmless(l.Who) }},
		{"VERB", false, func(l auditJSON) string { return l.Verb }},
		{"ARGUMENTS", false, func(l auditJSON) string { return harmless(l.Arguments) }},
		{"OUTCOME", false, func(l auditJSON) string { return harmless(l.Outcome) }},
	}
}

func (a *app) audit() *cobra.Command {
	limit := 100
	ls := &cobra.Command{
		Use: "ls", Short: "list what operators have asked for, the newest first", Args: args(0, 0),
		Long: "Lists what operators have asked for, and what the elected control plane did by\n" +
			"itself, the newest first: when, who, which verb with what, and what came of it.",
	}
	o := a.operatorFlags(ls, defaultTimeout)
	ls.Flags().IntVar(&limit, "limit", limit, "at most so many `LINES`")
	ls.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 || limit > auditMax {
			return usagef("--limit %d: from 1 to %d", limit, auditMax)
		}
		var lines []auditJSON
		err := o.call(cmd.Context(), func(ctx context.Context, c controlpb.OperatorClient) error {
			r, err := c.ListAudit(ctx, &controlpb.ListAuditRequest{Limit: uint32(limit)})
			lines = each(r.GetRecords(), auditOf)
			return err
		})
		if err != nil {
			return err
		}
		return show(o, lines, auditColumns())
	}
	return chooser(&cobra.Command{Use: "audit", Short: "what operators have asked for: list"}, ls)
}
