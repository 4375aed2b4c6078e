package run

import (
	"regexp"
	"slices"
	"strings"
)

// recordedNames are the variables that are recorded when set, beside those
// that begin with a recordedPrefix: what is known to change results, and no
// more. PATH is not: argv[0] is resolved and digested instead.
var recordedNames = []string{
	"LANG", "LANGUAGE", "TZ", "SOURCE_DATE_EPOCH",
	"PYTHONHASHSEED", "PYTHONPATH", "PYTHONOPTIMIZE", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONDONTWRITEBYTECODE",
	"CONDA_DEFAULT_ENV", "VIRTUAL_ENV",
	"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
	"MKL_CBWR", "OMP_SCHEDULE", "OMP_DYNAMIC",
	"CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TF_DETERMINISTIC_OPS",
	"TF_CUDNN_DETERMINISTIC", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64",
	"WORLD_SIZE", "RANK", "LOCAL_RANK",
	"GOFLAGS", "GOMAXPROCS", "GODEBUG", "R_LIBS", "JULIA_NUM_THREADS",
}

const recordedPrefix = "LC_"

// recorded picks the variables that are recorded out of an environment.
func recorded(env []string) map[string]string {
	out := map[string]string{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if slices.Contains(recordedNames, name) || strings.HasPrefix(name, recordedPrefix) {
			out[name] = strings.ToValidUTF8(value, "\uFFFD")
		}
	}
	return out
}

// getenv returns the last value of a variable, as the system does.
func getenv(env []string, name string) (string, bool) {
	for _, kv := range slices.Backward(env) {
		if n, value, _ := strings.Cut(kv, "="); n == name {
			return value, true
		}
	}
	return "", false
}

var runID = regexp.MustCompile(`^[0-9a-f]{16,64}$`)

// parent is the run that this one is part of, if any.
func parent(env []string) string {
	if id, _ := getenv(env, EnvRun); runID.MatchString(id) {
		return id
	}
	return ""
}
