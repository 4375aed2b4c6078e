package mlflow

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// tracking is a tracking server that answers as MLflow does: its paging, what it
// lets be asked, its errors. It is no MLflow: none can be had without Python's
// packages.
type tracking struct {
	*httptest.Server
	password string

	mu          sync.Mutex
	broken      bool
	busy        bool
	pageSize    int // the most that it gives at once, whatever is asked for
	experiments []map[string]any
	runs        []map[string]any
	versions    []map[string]any
	models      []map[string]any
	asked       []string
}

func newTracking(t *testing.T) *tracking {
	s := &tracking{pageSize: 2, experiments: []map[string]any{{"experiment_id": "1", "name": "forecast", "artifact_location": "s3://mlflow/1", "lifecycle_stage": "active"}}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *tracking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		fail(w, http.StatusInternalServerError, "INTERNAL_ERROR", "broken")
		return
	}
	if s.busy {
		w.Header().Set("Retry-After", "7")
		fail(w, http.StatusTooManyRequests, "REQUEST_LIMIT_EXCEEDED", "slow down")
		return
	}
	if _, password, _ := r.BasicAuth(); password != s.password {
		fail(w, http.StatusUnauthorized, "PERMISSION_DENIED", "who are you")
		return
	}
	what := strings.TrimPrefix(r.URL.Path, "/api/2.0/mlflow/")
	s.asked = append(s.asked, r.Method+" "+what)
	var ask struct {
		Experiments []string `json:"experiment_ids"`
		Filter      string   `json:"filter"`
		Most        int      `json:"max_results"`
		OrderBy     []string `json:"order_by"`
		Token       string   `json:"page_token"`
		View        string   `json:"run_view_type"`
	}
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
			fail(w, http.StatusBadRequest, "INVALID_PARAMETER_VALUE", err.Error())
			return
		}
	} else {
		q := r.URL.Query()
		ask.Most, _ = strconv.Atoi(q.Get("max_results"))
		ask.Token, ask.OrderBy = q.Get("page_token"), q["order_by"]
	}
	if ask.Most < 1 || ask.Most > 1000 {
		fail(w, http.StatusBadRequest, "INVALID_PARAMETER_VALUE", fmt.Sprintf("Invalid value for request parameter max_results. It must be at most 1000, but got value %d", ask.Most))
		return
	}
	for _, o := range ask.OrderBy {
		if o != "attributes.end_time ASC" && o != "creation_timestamp ASC" {
			fail(w, http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid order_by clause "+o)
			return
		}
	}
	var list string
	var items []map[string]any
	switch r.Method + " " + what {
	case "POST experiments/search":
		list, items = "experiments", s.experiments
	case "POST runs/search":
		since := 0.0
		if ask.Filter != "" {
			if _, err := fmt.Sscanf(ask.Filter, "attributes.end_time >= %g", &since); err != nil {
				fail(w, http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid filter "+ask.Filter)
				return
			}
		}
		list = "runs"
		for _, run := range s.runs {
			info := run["info"].(map[string]any)
			end, _ := info["end_time"].(float64)
			if slices.Contains(ask.Experiments, info["experiment_id"].(string)) && end >= since {
				items = append(items, run)
			}
		}
		slices.SortStableFunc(items, func(a, b map[string]any) int {
			x, _ := a["info"].(map[string]any)["end_time"].(float64)
			y, _ := b["info"].(map[string]any)["end_time"].(float64)
			return cmp.Compare(x, y)
		})
	case "GET model-versions/search":
		list, items = "model_versions", s.versions
	case "GET registered-models/search":
		list, items = "registered_models", s.models
	default:
		fail(w, http.StatusNotFound, "ENDPOINT_NOT_FOUND", "No API found for "+what)
		return
	}
	start, _ := strconv.Atoi(ask.Token)
	end := min(len(items), start+min(ask.Most, s.pageSize))
	answer := map[string]any{}
	if start < end {
		answer[list] = items[start:end]
	}
	if end < len(items) {
		answer["next_page_token"] = strconv.Itoa(end)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error_code": code, "message": message})
}

func pairs(of ...string) []map[string]string {
	var out []map[string]string
	for i := 0; i < len(of); i += 2 {
		out = append(out, map[string]string{"key": of[i], "value": of[i+1]})
	}
	return out
}

// train adds a run that ended at a minute of an hour, with everything that MLflow
// can say of one.
func (s *tracking) train(id, status string, minute int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := float64(1777629600000 + minute*60000)
	var ended any = end
	if status == "RUNNING" {
		ended = nil
	}
	s.runs = append(s.runs, map[string]any{
		"info": map[string]any{"run_id": id, "run_uuid": id, "run_name": "train", "experiment_id": "1", "user_id": "ada", "status": status,
			"start_time": end - 30000, "end_time": ended, "artifact_uri": "s3://mlflow/1/" + id + "/artifacts", "lifecycle_stage": "active"},
		"data": map[string]any{
			"metrics": []map[string]any{{"key": "mae", "value": 1.25, "timestamp": end, "step": 0}, {"key": "loss", "value": "NaN", "timestamp": end, "step": 0}},
			"params":  pairs("rate", "0.1", "api_token", "s3cr3tV4lue99"),
			"tags": pairs(tagSource, "train.py", tagKind, "PROJECT", tagCommit, "41b2c9f1a9d3cf7b2e0f6d1a3c5e7b9d1f3a5c7e", tagRepo, "https://ada:pw@git.example.com/ml/forecast",
				tagDirty, "true", tagParent, "parent-1", tagImage, "registry.example.com/train:1", tagImageID, "sha256:"+strings.Repeat("b", 64),
				tagHistory, `[{"run_id": "x", "artifact_path": "model", "utc_time_created": "2026-05-01"}]`),
		},
		"inputs": map[string]any{"dataset_inputs": []map[string]any{
			{"tags": pairs(dataContext, "training"), "dataset": map[string]any{"name": "prices", "digest": "a1b2c3d4", "source_type": "s3", "source": `{"uri": "s3a://lake/prices.csv"}`}},
			{"dataset": map[string]any{"name": "made up", "digest": "ffffffff", "source_type": "code", "source": `{"tags": {"mlflow.source.name": "train.py"}}`}},
		}},
		"outputs": map[string]any{"model_outputs": []map[string]any{{"model_id": "m-" + id, "step": 0}}},
	})
}

// register makes a version of a model of what a run left.
func (s *tracking) register(version, run, status string, minute int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = append(s.versions, map[string]any{"name": "prices", "version": version, "creation_timestamp": 1777629600000 + minute*60000, "source": "s3://mlflow/1/" + run + "/artifacts/model", "run_id": run, "status": status, "current_stage": "None"})
}

// call has aliases point at versions, and no others.
func (s *tracking) call(aliases ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []map[string]string
	for i := 0; i < len(aliases); i += 2 {
		list = append(list, map[string]string{"alias": aliases[i], "version": aliases[i+1]})
	}
	s.models = []map[string]any{{"name": "prices", "creation_timestamp": 1777629600000, "aliases": list}}
}
