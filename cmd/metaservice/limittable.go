package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/proxies"
	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
)

// limitRows are all limits that a guest can meet, area by area.
func limitRows() []domain.LimitRow {
	rows := slices.Concat(domain.LimitRows(), host.LimitRows(), httpserver.LimitRows(), chiapi.LimitRows(),
		proxies.LimitRows(), qemu.LimitRows())
	first := make(map[string]int)
	for i, row := range rows {
		if _, seen := first[row.Area]; !seen {
			first[row.Area] = i
		}
	}
	slices.SortStableFunc(rows, func(a, b domain.LimitRow) int { return cmp.Compare(first[a.Area], first[b.Area]) })
	return rows
}

func limitsCommand(to streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "limits",
		Short: "Tell what a guest can make its host do, at most",
		Long: `Tell what a guest can make its host do, at most: each limit, its default, what happens
at it, and how to change it.`,
		Example: "  metaservice limits\n  metaservice limits --json | jq '.[] | select(.area == \"shells\")'",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				encoder := json.NewEncoder(to.out)
				encoder.SetEscapeHTML(false)
				encoder.SetIndent("", "  ")
				return encoder.Encode(limitRows())
			}
			return printLimits(to.out, limitRows())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "tell it for programs")
	return cmd
}

// printLimits is the table for people.
func printLimits(to io.Writer, rows []domain.LimitRow) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	area := ""
	for _, row := range rows {
		if row.Area != area {
			if area != "" {
				fmt.Fprintln(table)
			}
			area = row.Area
			fmt.Fprintf(table, "%s\n", area)
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\n", row.Name, row.Default, row.Of)
		fmt.Fprintf(table, "  \t\tat it: %s\n", row.AtLimit)
		fmt.Fprintf(table, "  \t\tchange: %s\n", row.Change)
	}
	return table.Flush()
}
