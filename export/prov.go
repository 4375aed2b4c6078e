package export

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// provDocument is a document of PROV-JSON. Its maps are by identifier.
type provDocument struct {
	Prefix            map[string]string     `json:"prefix"`
	Entity            map[string]attributes `json:"entity,omitempty"`
	Activity          map[string]attributes `json:"activity,omitempty"`
	Agent             map[string]attributes `json:"agent,omitempty"`
	Used              map[string]attributes `json:"used,omitempty"`
	WasGeneratedBy    map[string]attributes `json:"wasGeneratedBy,omitempty"`
	WasDerivedFrom    map[string]attributes `json:"wasDerivedFrom,omitempty"`
	AlternateOf       map[string]attributes `json:"alternateOf,omitempty"`
	HadMember         map[string]attributes `json:"hadMember,omitempty"`
	WasAssociatedWith map[string]attributes `json:"wasAssociatedWith,omitempty"`
}

type attributes map[string]any

// set adds what is known.
func (a attributes) set(name, value string) {
	if value != "" {
		a[name] = value
	}
}

// provNamespace is that of attributes and types that PROV has no words for.
const provNamespace = "https://github.com/retrace-ledger/retrace/prov#"

// qualified is a name in our namespace as a value.
func qualified(name string) map[string]string {
	return map[string]string{"$": "retrace:" + name, "type": "prov:QUALIFIED_NAME"}
}

// PROV writes the answer as PROV-JSON: resources are entities, steps activities,
// and their builders agents. Entities are named by their keys, so that documents
// of several answers can be put together.
func PROV(w io.Writer, a *Answer) error {
	p := &provWriter{a: a, doc: provDocument{
		Prefix: map[string]string{"retrace": provNamespace, "entry": "urn:retrace:" + a.Origin + ":entry:"},
		Entity: map[string]attributes{}, Activity: map[string]attributes{}, Agent: map[string]attributes{},
		Used: map[string]attributes{}, WasGeneratedBy: map[string]attributes{}, WasDerivedFrom: map[string]attributes{},
		AlternateOf: map[string]attributes{}, HadMember: map[string]attributes{}, WasAssociatedWith: map[string]attributes{},
	}}
	p.resources()
	p.steps()
	p.edges()
	raw, err := json.MarshalIndent(p.doc, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(raw, '\n'))
	return err
}

type provWriter struct {
	a     *Answer
	doc   provDocument
	blank int
}

// relation is an identifier for a relation that nobody else names.
func (p *provWriter) relation() string {
	p.blank++
	return "_:" + strconv.Itoa(p.blank)
}

// entityID is the identifier of a resource. What a qualified name cannot hold is
// escaped by a digest.
func entityID(k schema.Key) string {
	if k.Digested() {
		return "retrace:" + strings.Replace(string(k), ":", "-", 1)
	}
	return "retrace:uri-" + schema.BytesKey([]byte(k.Hex())).Hex()
}

func activityID(entry int64) string { return "entry:" + strconv.FormatInt(entry, 10) }

func (p *provWriter) resources() {
	for _, r := range p.a.Lineage.Resources {
		e := attributes{"prov:label": p.a.title(r)}
		if r.Kind != "" {
			e["prov:type"] = qualified(r.Kind)
		}
		if r.Key.Digested() {
			e["retrace:digest"] = string(r.Key)
		}
		e.set("prov:location", r.URI)
		if r.Size >= 0 {
			e["retrace:size"] = r.Size
		}
		p.doc.Entity[entityID(r.Key)] = e
	}
}

func (p *provWriter) steps() {
	for _, s := range p.a.Lineage.Steps {
		id := activityID(s.Entry)
		act := attributes{"prov:type": qualified("step"), "retrace:evidence": string(s.Evidence)}
		act.set("prov:label", s.Step.Name)
		act.set("prov:startTime", provTime(s.Step.Started))
		act.set("prov:endTime", provTime(s.Step.Finished))
		act.set("retrace:run", s.Step.Run)
		act.set("retrace:buildType", s.Step.BuildType)
		if len(s.Step.Argv) > 0 {
			act["retrace:command"] = s.Step.Argv
		}
		for name, value := range s.Step.Parameters {
			act["retrace:parameter-"+localName(name)] = value
		}
		p.doc.Activity[id] = act
		for _, k := range p.a.made(s) {
			p.doc.WasGeneratedBy[p.relation()] = attributes{"prov:entity": entityID(k), "prov:activity": id, "retrace:evidence": string(s.Evidence)}
		}
		if s.Step.Builder != "" {
			agent := "retrace:builder-" + schema.BytesKey([]byte(s.Step.Builder)).Hex()[:16]
			p.doc.Agent[agent] = attributes{"prov:label": s.Step.Builder, "prov:type": map[string]string{"$": "prov:SoftwareAgent", "type": "prov:QUALIFIED_NAME"}}
			p.doc.WasAssociatedWith[p.relation()] = attributes{"prov:activity": id, "prov:agent": agent}
		}
	}
}

// localName replaces what a qualified name cannot hold.
func localName(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, s)
}

func provTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

func (p *provWriter) edges() {
	used := map[string]bool{}
	for _, e := range p.a.Lineage.Edges {
		said := attributes{"retrace:evidence": string(e.Evidence), "retrace:entry": e.Entry}
		from, to := entityID(e.From), entityID(e.To)
		switch {
		case e.Step >= 0:
			if id := fmt.Sprint(e.Step, " ", to, " ", e.Role, " ", e.Path); !used[id] {
				used[id] = true
				said["prov:activity"], said["prov:entity"] = activityID(e.Step), to
				if e.Role != "" {
					said["prov:role"] = qualified(e.Role)
				}
				said.set("retrace:path", e.Path)
				p.doc.Used[p.relation()] = said
			}
		case e.Relation == schema.RelAlias:
			p.doc.AlternateOf[p.relation()] = attributes{"prov:alternate1": from, "prov:alternate2": to}
		case e.Relation == schema.RelPartOf:
			p.doc.HadMember[p.relation()] = attributes{"prov:collection": from, "prov:entity": to}
		default:
			said["prov:generatedEntity"], said["prov:usedEntity"], said["prov:type"] = from, to, qualified(e.Relation)
			p.doc.WasDerivedFrom[p.relation()] = said
		}
	}
}
