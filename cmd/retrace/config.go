package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/all"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
)

// serveConfig is retrace.yaml. Unknown fields are refused.
type serveConfig struct {
	// Listen is HOST:PORT on loopback.
	Listen string `yaml:"listen"`
	// Metrics is HOST:PORT of a second listener, for /healthz, /readyz and
	// /metrics alone; any address.
	Metrics string `yaml:"metrics"`
	// TLS is a listener for callers from elsewhere.
	TLS *tlsConfig `yaml:"tls"`
	// Sources are watched as long as the server runs.
	Sources []sourceConfig `yaml:"sources"`
	// Places are the folders that a restoration may go to, by name.
	Places map[string]string `yaml:"places"`
	// Witness is a policy file (C2SP tlog-policy), relative to retrace.yaml.
	Witness string `yaml:"witness"`
	// Models are the rules by which models that are found get their names.
	Models []namingRule `yaml:"models"`
	// OpenLineage is how runs whose events are received become steps.
	OpenLineage *openLineageConfig `yaml:"openlineage"`
	// Introspection says whether GraphQL shows its schema; it does unless told.
	Introspection *bool `yaml:"introspection"`
}

// tlsConfig is a listener with a certificate. Files are relative to
// retrace.yaml.
type tlsConfig struct {
	Listen string `yaml:"listen"` // HOST:PORT
	Cert   string `yaml:"cert"`   // PEM, with the chain
	Key    string `yaml:"key"`    // PEM
}

// openLineageConfig says how long events are waited for.
type openLineageConfig struct {
	Settle  string `yaml:"settle"`  // after the run has ended; such as 10s, which it is if empty
	Overdue string `yaml:"overdue"` // after the last event of a run that does not end; such as 24h, which it is if empty
}

// spans are the two as durations, 0 for those that are not given.
func (c *openLineageConfig) spans() (settle, overdue time.Duration, err error) {
	if c == nil {
		return 0, 0, nil
	}
	for field, of := range map[string]struct {
		text string
		into *time.Duration
	}{"settle": {c.Settle, &settle}, "overdue": {c.Overdue, &overdue}} {
		if of.text == "" {
			continue
		}
		if *of.into, err = time.ParseDuration(of.text); err != nil || *of.into < time.Second {
			return 0, 0, fmt.Errorf("openlineage.%s: %q is not a span of at least 1s", field, of.text)
		}
	}
	return settle, overdue, nil
}

// namingRule is an ingest.NamingRule.
type namingRule struct {
	Match   map[string]string `yaml:"match"`
	Name    string            `yaml:"name"`
	Version string            `yaml:"version"`
}

// naming are the rules for the names of models.
func (c *serveConfig) naming() ingest.Naming {
	var rules ingest.Naming
	for _, r := range c.Models {
		rules = append(rules, ingest.NamingRule(r))
	}
	return rules
}

type sourceConfig struct {
	URL       string `yaml:"url"`
	Namespace string `yaml:"namespace"`
	Interval  string `yaml:"interval"` // such as 30s; a minute if empty
	// With are the settings that only this kind of source has.
	With map[string]any `yaml:"with"`
}

// place is where the source is, with its settings.
func (s *sourceConfig) place() (ingest.Place, error) {
	p := ingest.Place{URL: s.URL}
	if len(s.With) == 0 {
		return p, nil
	}
	var err error
	p.With, err = json.Marshal(s.With)
	return p, err
}

// places are where the sources are.
func (c *serveConfig) places() ([]ingest.Place, error) {
	var places []ingest.Place
	for i := range c.Sources {
		p, err := c.Sources[i].place()
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", c.Sources[i].URL, err)
		}
		places = append(places, p)
	}
	return places, nil
}

func (s *sourceConfig) interval() (time.Duration, error) {
	if s.Interval == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s.Interval)
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("%q is not a span of at least 1s", s.Interval)
	}
	return d, nil
}

// configFile is a configuration with the file that it was read from.
type configFile struct {
	name   string
	syntax *ast.File
	serveConfig
}

// readConfig reads a configuration strictly. What it says is not looked into;
// see check.
func readConfig(name string) (*configFile, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	f := &configFile{name: name}
	err = f.decode(raw)
	if syntax := yaml.Error(nil); errors.As(err, &syntax) {
		if token := syntax.GetToken(); token != nil {
			return nil, fmt.Errorf("%s:%d: %s", name, token.Position.Line, syntax.GetMessage())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f.beside(&f.Witness)
	if f.TLS != nil {
		f.beside(&f.TLS.Cert)
		f.beside(&f.TLS.Key)
	}
	return f, nil
}

// decode reads the text. The parser panics on some that are not YAML, such as
// a tag where a list belongs, and a server must outlive an edit of its file.
func (f *configFile) decode(raw []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("is not YAML that can be read: %v", p)
		}
	}()
	if f.syntax, err = parser.ParseBytes(raw, 0); err != nil {
		return err
	}
	return yaml.UnmarshalWithOptions(raw, &f.serveConfig, yaml.Strict())
}

// beside takes the name of a file as relative to the configuration.
func (f *configFile) beside(file *string) {
	if *file != "" && !filepath.IsAbs(*file) {
		*file = filepath.Join(filepath.Dir(f.name), *file)
	}
}

// check says all that is wrong with the configuration, line by line. Nothing
// is asked of a source.
func (f *configFile) check(ctx context.Context, env ingest.Env) []error {
	var faults []error
	wrong := func(at string, err error) {
		if err != nil {
			faults = append(faults, f.at(at, err))
		}
	}
	if f.Listen != "" {
		_, err := server.CheckAddress(f.Listen)
		wrong("listen", err)
	}
	if f.Metrics != "" {
		wrong("metrics", checkAnyAddress(f.Metrics))
	}
	if f.TLS != nil {
		wrong("tls.listen", checkAnyAddress(f.TLS.Listen))
		wrong("tls.cert", server.CheckCertificate(f.TLS.Cert, f.TLS.Key))
	}
	if f.Witness != "" {
		_, err := readPolicy(f.Witness)
		wrong("witness", err)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Places)) {
		if dir := f.Places[name]; !filepath.IsAbs(dir) {
			wrong("places."+name, fmt.Errorf("%q is not an absolute path", dir))
		}
	}
	_, _, err := f.OpenLineage.spans()
	wrong("openlineage", err)
	wrong("models", f.naming().Check())
	named := map[string]int{}
	for i := range f.Sources {
		at := fmt.Sprintf("sources[%d]", i)
		name, err := f.checkSource(ctx, env, &f.Sources[i], at)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if first, twice := named[name]; twice {
			wrong(at+".url", fmt.Errorf("%s is sources[%d] already", name, first))
		}
		named[name] = i
	}
	return faults
}

func checkAnyAddress(address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%q is not an address to listen on: want HOST:PORT", address)
	}
	return nil
}

func (f *configFile) checkSource(ctx context.Context, env ingest.Env, s *sourceConfig, at string) (string, error) {
	if s.URL == "" {
		return "", f.at(at, errors.New("url is missing"))
	}
	if _, err := s.interval(); err != nil {
		return "", f.at(at+".interval", err)
	}
	kind, err := ingest.KindOf(all.Kinds(), s.URL)
	if err != nil {
		return "", f.at(at+".url", err)
	}
	place, err := s.place()
	if err != nil {
		return "", f.at(at+".with", err)
	}
	_, name, err := kind.Open(ctx, place, env)
	if setting := (*ingest.SettingError)(nil); errors.As(err, &setting) {
		return "", f.at(at+".with."+setting.Field, setting.Err)
	}
	if err != nil {
		return "", f.at(at+".url", err)
	}
	return name, nil
}

// at says where in the file a fault is.
func (f *configFile) at(field string, err error) error {
	for at := field; at != "" && f.syntax != nil; at = parent(at) {
		path, pathErr := yaml.PathString("$." + at)
		if pathErr != nil {
			continue
		}
		if node, nodeErr := path.FilterFile(f.syntax); nodeErr == nil && node.GetToken() != nil {
			return fmt.Errorf("%s:%d: %s: %w", f.name, node.GetToken().Position.Line, field, err)
		}
	}
	return fmt.Errorf("%s: %s: %w", f.name, field, err)
}

// parent is the field that holds the one at path, "" for none.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

func (a *app) configCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Check a configuration of the server",
		Example: "  retrace config check retrace.yaml",
	}
	cmd.AddCommand(a.configCheckCmd())
	return cmd
}

func (a *app) configCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say what is wrong with retrace.yaml, with line numbers",
		Long: `Say what is wrong with a configuration (retrace.yaml if none is named), with line
numbers. Nothing is asked of a source, and nothing is recorded. Exit status 1:
something is wrong.`,
		Example: "  retrace config check\n  retrace config check /etc/retrace/retrace.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			name := "retrace.yaml"
			if len(args) > 0 {
				name = args[0]
			}
			return a.checkConfig(cmd, name)
		},
	}
}

// closedStore is a content store for kinds that are opened to be checked, and
// never read.
type closedStore struct{ contentStore }

// noEntries is an empty ledger for kinds that are opened to be checked.
type noEntries struct{}

func (noEntries) Entries(context.Context, int64) iter.Seq2[schema.Entry, error] {
	return func(func(schema.Entry, error) bool) {}
}

// faultJSON is a fault of a configuration.
type faultJSON struct {
	Fault string `json:"fault"`
}

func (a *app) checkConfig(cmd *cobra.Command, name string) error {
	f, err := readConfig(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return cannot(err)
	}
	var faults []error
	if err != nil {
		faults = append(faults, err)
	} else {
		faults = f.check(cmd.Context(), ingest.Env{Content: closedStore{}, Entries: noEntries{}, Naming: f.naming()})
	}
	out := cmd.OutOrStdout()
	if a.output == "json" {
		list := []faultJSON{}
		for _, fault := range faults {
			list = append(list, faultJSON{fault.Error()})
		}
		if err := printJSON(out, struct {
			File   string      `json:"file"`
			Faults []faultJSON `json:"faults"`
		}{name, list}); err != nil {
			return err
		}
	} else {
		for _, fault := range faults {
			fmt.Fprintln(out, printable(fault.Error()))
		}
	}
	if len(faults) > 0 {
		return isFalse(fmt.Errorf("%s: %s", name, count(len(faults), "fault", "faults")))
	}
	if a.output != "json" {
		fmt.Fprintf(out, "%s: %s, nothing is wrong\n", name, count(len(f.Sources), "source", "sources"))
	}
	return nil
}
