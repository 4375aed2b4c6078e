package mlflow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/ingest"
)

// Limits of what is read.
const (
	pageSize  = 1000     // of any list: what every version of MLflow gives
	maxAnswer = 64 << 20 // bytes of one page
	timeout   = 2 * time.Minute
)

// client asks one tracking server. It tries everything once.
type client struct {
	base string // without a slash at its end
	settings
	http *http.Client
}

type settings struct {
	Username string        `json:"username,omitempty"`
	Password ingest.Secret `json:"password,omitzero"`
	Token    ingest.Secret `json:"token,omitzero"`
}

// Answers of the API, as far as they are read (mlflow/protos/service.proto,
// model_registry.proto). Numbers are of JSON, or texts in older versions.
type (
	experiment struct {
		ID   string `json:"experiment_id"`
		Name string `json:"name"`
	}
	pair struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	metric struct {
		Key   string         `json:"key"`
		Value jsontext.Value `json:"value"`
	}
	run struct {
		Info struct {
			RunID        string `json:"run_id"`
			RunUUID      string `json:"run_uuid"` // of MLflow before 1.0
			Name         string `json:"run_name"`
			ExperimentID string `json:"experiment_id"`
			Status       string `json:"status"`
			Started      millis `json:"start_time"`
			Ended        millis `json:"end_time"`
			ArtifactURI  string `json:"artifact_uri"`
		} `json:"info"`
		Data struct {
			Metrics []metric `json:"metrics"`
			Params  []pair   `json:"params"`
			Tags    []pair   `json:"tags"`
		} `json:"data"`
		Inputs struct {
			Datasets []datasetInput `json:"dataset_inputs"`
			Models   []modelOutput  `json:"model_inputs"`
		} `json:"inputs"`
		Outputs struct {
			Models []modelOutput `json:"model_outputs"`
		} `json:"outputs"`

		raw jsontext.Value
	}
	datasetInput struct {
		Tags    []pair `json:"tags"`
		Dataset struct {
			Name       string `json:"name"`
			Digest     string `json:"digest"`
			SourceType string `json:"source_type"`
			Source     string `json:"source"`
		} `json:"dataset"`
	}
	modelOutput struct {
		ModelID string `json:"model_id"`
	}
	modelVersion struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Created millis `json:"creation_timestamp"`
		Source  string `json:"source"`
		RunID   string `json:"run_id"`
		Status  string `json:"status"`
	}
	registeredModel struct {
		Name    string `json:"name"`
		Aliases []struct {
			Alias   string `json:"alias"`
			Version string `json:"version"`
		} `json:"aliases"`
	}
)

// millis is a time in milliseconds since 1970, as a number or a text of one.
type millis int64

// UnmarshalJSON implements json.Unmarshaler.
func (m *millis) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	if text == "" || text == "null" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("%.40q is no time in milliseconds", text)
	}
	*m = millis(n)
	return nil
}

func (m millis) time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(m)).UTC()
}

// experiments are all, or that called only.
func (c *client) experiments(ctx context.Context, only string) ([]experiment, error) {
	var all []experiment
	token := ""
	for {
		var page struct {
			Experiments []experiment `json:"experiments"`
			Next        string       `json:"next_page_token"`
		}
		ask := map[string]any{"max_results": pageSize, "view_type": "ACTIVE_ONLY"}
		if token != "" {
			ask["page_token"] = token
		}
		if err := c.post(ctx, "experiments/search", ask, &page); err != nil {
			return nil, err
		}
		for _, e := range page.Experiments {
			if only == "" || e.Name == only {
				all = append(all, e)
			}
		}
		if token = page.Next; token == "" {
			return all, nil
		}
	}
}

// runs yields those of experiments that ended at a time or after it, in that
// order; those that have not ended too, if since is 0.
func (c *client) runs(ctx context.Context, experiments []experiment, since millis) iter.Seq2[run, error] {
	ids := make([]string, len(experiments))
	for i, e := range experiments {
		ids[i] = e.ID
	}
	return func(yield func(run, error) bool) {
		token := ""
		for {
			var page struct {
				Runs []jsontext.Value `json:"runs"`
				Next string           `json:"next_page_token"`
			}
			ask := map[string]any{"experiment_ids": ids, "max_results": pageSize, "run_view_type": "ACTIVE_ONLY", "order_by": []string{"attributes.end_time ASC"}}
			if since > 0 {
				ask["filter"] = fmt.Sprintf("attributes.end_time >= %d", since)
			}
			if token != "" {
				ask["page_token"] = token
			}
			if err := c.post(ctx, "runs/search", ask, &page); err != nil {
				yield(run{}, err)
				return
			}
			for _, raw := range page.Runs {
				if !yield(run{raw: raw}, nil) {
					return
				}
			}
			if token = page.Next; token == "" {
				return
			}
		}
	}
}

// versions are all versions of all registered models, in the order in which
// they were made.
func (c *client) versions(ctx context.Context) ([]modelVersion, error) {
	var all []modelVersion
	return all, c.pages(ctx, "model-versions/search", url.Values{"order_by": {"creation_timestamp ASC"}}, func(raw jsontext.Value) (string, error) {
		var page struct {
			Versions []modelVersion `json:"model_versions"`
			Next     string         `json:"next_page_token"`
		}
		err := json.Unmarshal(raw, &page)
		all = append(all, page.Versions...)
		return page.Next, err
	})
}

// models are all registered models.
func (c *client) models(ctx context.Context) ([]registeredModel, error) {
	var all []registeredModel
	return all, c.pages(ctx, "registered-models/search", url.Values{}, func(raw jsontext.Value) (string, error) {
		var page struct {
			Models []registeredModel `json:"registered_models"`
			Next   string            `json:"next_page_token"`
		}
		err := json.Unmarshal(raw, &page)
		all = append(all, page.Models...)
		return page.Next, err
	})
}

// pages reads a list to its end.
func (c *client) pages(ctx context.Context, path string, query url.Values, take func(jsontext.Value) (next string, err error)) error {
	query.Set("max_results", strconv.Itoa(pageSize))
	for {
		var raw jsontext.Value
		if err := c.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &raw); err != nil {
			return err
		}
		next, err := take(raw)
		if err != nil {
			return fmt.Errorf("reading %s of %s: %w", path, c.base, err)
		}
		if next == "" {
			return nil
		}
		query.Set("page_token", next)
	}
}

func (c *client) post(ctx context.Context, path string, ask, answer any) error {
	body, err := json.Marshal(ask, json.Deterministic(true))
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, path, body, answer)
}

func (c *client) do(ctx context.Context, method, path string, body []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/api/2.0/mlflow/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := c.authorize(req); err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	path, _, _ = strings.Cut(path, "?")
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("reading %s of %s: %w", path, c.base, err)
	case len(raw) > maxAnswer:
		return fmt.Errorf("%s of %s has more than %d bytes", path, c.base, maxAnswer)
	case resp.StatusCode != http.StatusOK:
		return c.failed(path, resp, raw)
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("%s of %s is not what MLflow answers: %w", path, c.base, err)
	}
	return nil
}

func (c *client) authorize(req *http.Request) error {
	if c.Token.Given() {
		token, err := c.Token.Read()
		if err != nil {
			return ingest.Setting("token", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		return nil
	}
	if c.Username == "" {
		return nil
	}
	password, err := c.Password.Read()
	if err != nil {
		return ingest.Setting("password", err)
	}
	req.SetBasicAuth(c.Username, password)
	return nil
}

// failed is what a server answers that does not do as asked.
func (c *client) failed(path string, resp *http.Response, raw []byte) error {
	var said struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	text := resp.Status
	if json.Unmarshal(raw, &said) == nil && said.Code != "" {
		text = fmt.Sprintf("%s, %s: %.300s", resp.Status, said.Code, said.Message)
	}
	err := fmt.Errorf("%s of %s: %s", path, c.base, text)
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		return fmt.Errorf("%w; give it a username and password, or a token, that may read", err)
	}
	if seconds, bad := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode == http.StatusTooManyRequests && bad == nil && seconds > 0 {
		return &ingest.BusyError{Wait: time.Duration(seconds) * time.Second, Err: err}
	}
	return err
}

// parseRun decodes one run of a page.
func parseRun(raw jsontext.Value) (run, error) {
	r := run{raw: raw}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("is no run: %w", err)
	}
	if r.Info.RunID == "" {
		r.Info.RunID = r.Info.RunUUID
	}
	switch {
	case r.Info.RunID == "":
		return r, errors.New("info.run_id: missing")
	case r.Info.Status == "":
		return r, errors.New("info.status: missing")
	}
	return r, nil
}

// ended says whether the run has.
func (r *run) ended() bool {
	switch r.Info.Status {
	case "FINISHED", "FAILED", "KILLED":
		return true
	}
	return false
}
