// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/manifest"
)

// recent are the options that take the newest of a list.
type recent struct {
	latest bool
	last   int
}

func (r *recent) add(cmd *cobra.Command, things string) {
	f := cmd.Flags()
	f.BoolVarP(&r.latest, "latest", "l", false, "take only the newest, in any state")
	f.IntVarP(&r.last, "last", "n", 0, "take only the newest `NUMBER` of "+things+", in any state; 0 takes all")
	cli.CompleteOption(cmd, "last", cobra.NoFileCompletions)
	cmd.MarkFlagsMutuallyExclusive("latest", "last")
}

// count is how many of a list of n, the newest first, are taken.
func (r *recent) count(n int) int {
	switch {
	case r.latest:
		return min(1, n)
	case r.last > 0:
		return min(r.last, n)
	}
	return n
}

// listing are the options of the verbs that list things.
type listing struct {
	output
	quiet, verbose, whole bool
}

func (l *listing) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&l.quiet, "quiet", "q", false, "print the ids alone")
	f.BoolVarP(&l.verbose, "verbose", "v", false, "print all that the list tells, a fact a line")
	f.BoolVar(&l.whole, "no-trunc", false, "print ids whole")
	l.output.add(cmd, asTable, asJSON, asYAML, asTemplate)
}

// printList prints a list in the form that is asked for. answer is the whole list as a message.
func printList[T identified](l *listing, all []T, answer proto.Message, facts func(T), table func() error) error {
	switch {
	case l.form != asTable:
		return l.message(os.Stdout, answer)
	case l.quiet:
		return ids(all)
	case l.verbose:
		for _, v := range all {
			facts(v)
		}
		return nil
	}
	return table()
}

// timeout adds -T, which bounds the verb's requests.
func (o *options) timeout(cmd *cobra.Command) {
	cmd.Flags().DurationP("cancel-timeout", "T", 0, "give up after `DURATION`; 0 waits as long as it takes")
	cli.CompleteOption(cmd, "cancel-timeout", cobra.NoFileCompletions)
}

// do connects and calls fn, once the options about the form are known to be right.
func (o *options) do(cmd *cobra.Command, out *output, fn func(context.Context, *runtimeClient) error) error {
	if out != nil {
		if err := out.check(); err != nil {
			return err
		}
	}
	ctx := cmd.Context()
	if t, err := cmd.Flags().GetDuration("cancel-timeout"); err == nil && t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t)
		defer cancel()
	}
	r, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	return fn(ctx, r)
}

func handlerOption(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVarP(name, "runtime", "r", "", "run it with the runtime handler `NAME`")
	cli.CompleteOption(cmd, "runtime", cobra.NoFileCompletions)
}

// labels reads label selectors.
func labels(given []string) (map[string]string, error) {
	if len(given) == 0 {
		return nil, nil
	}
	for _, l := range given {
		if !strings.Contains(l, "=") {
			return nil, cli.Usagef("--label: %q: want KEY=VALUE", l)
		}
	}
	return cli.ParseLabels(given)
}

// pattern is a regular expression and the option that it was given with.
type pattern struct{ option, text string }

// patterns makes a check that each value fits the pattern in its place; an empty one fits all.
func patterns(all ...pattern) (fits func(values ...string) bool, err error) {
	res := make([]*regexp.Regexp, len(all))
	for i, p := range all {
		if res[i], err = regexp.Compile(p.text); err != nil {
			return nil, cli.Usagef("%s: %w", p.option, err)
		}
	}
	return func(values ...string) bool {
		for i, v := range values {
			if !res[i].MatchString(v) {
				return false
			}
		}
		return true
	}, nil
}

// someOrAll checks the operands of a verb that has the option --all.
func someOrAll(all bool, args []string, operand string) error {
	switch {
	case all && len(args) > 0:
		return cli.Usagef("--all leaves no room for the operand %q", args[0])
	case !all && len(args) == 0:
		return cli.Usagef("no %s given, and no --all", operand)
	}
	return nil
}

type identified interface{ GetId() string }

func idsOf[T identified](all []T) []string {
	out := make([]string, len(all))
	for i, v := range all {
		out[i] = v.GetId()
	}
	return out
}

// ids prints the ids alone.
func ids[T identified](all []T) error {
	for _, v := range all {
		if _, err := fmt.Fprintln(os.Stdout, v.GetId()); err != nil {
			return err
		}
	}
	return nil
}

func configFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{"json", "yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

// completion asks the runtime for names: it waits for nobody longer than a person would.
func (o *options) completion(list func(context.Context, *runtimeClient) ([]cobra.Completion, error)) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r, err := o.connect(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer r.Close()
	all, _ := list(ctx, r)
	return all, cobra.ShellCompDirectiveNoFileComp
}

func (o *options) completePods(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return o.completion(func(ctx context.Context, r *runtimeClient) (out []cobra.Completion, err error) {
		all, err := (&podFilter{}).list(ctx, r)
		for _, s := range all {
			out = append(out, cobra.CompletionWithDesc(shortID(s.Id, false), s.GetMetadata().GetNamespace()+"/"+s.GetMetadata().GetName()))
		}
		return out, err
	})
}

func (o *options) completeContainers(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return o.completion(func(ctx context.Context, r *runtimeClient) (out []cobra.Completion, err error) {
		all, err := (&containerFilter{all: true}).list(ctx, r)
		for _, c := range all {
			out = append(out, cobra.CompletionWithDesc(shortID(c.Id, false), c.Labels[manifest.LabelPodName]+"/"+c.GetMetadata().GetName()))
		}
		return out, err
	})
}
