package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/retrace-ledger/retrace/schema"
)

// closureSQL is the recursive query of both databases, with the parameter as
// each writes it. Left to themselves both read all edges or all resources in
// each query: SQLite keeps the order of a CROSS JOIN, and PostgreSQL has to be told.
func closureSQL(parameter, join string) string {
	return fmt.Sprintf(`
		WITH RECURSIVE up(id) AS (
			SELECT id FROM node WHERE digest = %[1]s
			UNION
			SELECT edge.used FROM up %[2]s edge ON edge.made = up.id
		)
		SELECT a.digest, b.digest, edge.step
		FROM up %[2]s edge ON edge.made = up.id %[2]s node a ON a.id = up.id %[2]s node b ON b.id = edge.used`, parameter, join)
}

// edgesOf reads what the query found.
func edgesOf(rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
}) ([]edge, error) {
	out := []edge{}
	for rows.Next() {
		var from, to string
		var entry int64
		if err := rows.Scan(&from, &to, &entry); err != nil {
			return nil, err
		}
		out = append(out, newEdge(from, to, entry))
	}
	return out, rows.Err()
}

// openAncestorsSQLite puts the graph into a file of SQLite's.
func openAncestorsSQLite(ctx context.Context, dir string, g *graph) (_ *side, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	pragmas := url.Values{"_pragma": {"journal_mode(WAL)", "cache_size(-1000000)"}}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "db")+"?"+pragmas.Encode())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	db.SetMaxOpenConns(1)
	for _, statement := range []string{
		`CREATE TABLE node (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE)`,
		`CREATE TABLE edge (made INTEGER NOT NULL, step INTEGER NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (made, step, used)) WITHOUT ROWID`,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	if err := loadSQLite(ctx, db, g); err != nil {
		return nil, err
	}
	closure, err := db.PrepareContext(ctx, closureSQL("?", "CROSS JOIN"))
	if err != nil {
		return nil, err
	}
	return serve(&side{
		name: sqliteName, how: "modernc" + version("modernc.org/sqlite") + ", in the process: a recursive query, prepared, by indexes; edges from the primary key; all of it cached",
		close: func() error { return errors.Join(closure.Close(), db.Close()) },
		walk: func(ctx context.Context, of schema.Key) ([]edge, error) {
			rows, err := closure.QueryContext(ctx, string(of))
			if err != nil {
				return nil, err
			}
			defer rows.Close()
			return edgesOf(rows)
		},
	}, nil)
}

func loadSQLite(ctx context.Context, db *sql.DB, g *graph) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for text, rows := range map[string][][]any{
		`INSERT INTO node VALUES (?, ?)`:    g.nodeRows(),
		`INSERT INTO edge VALUES (?, ?, ?)`: g.edgeRows(),
	} {
		insert, err := tx.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if _, err := insert.ExecContext(ctx, row...); err != nil {
				return err
			}
		}
		if err := insert.Close(); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `ANALYZE`)
	return err
}

// nodeRows and edgeRows are the graph as rows of the two tables.
func (g *graph) nodeRows() [][]any {
	rows := make([][]any, len(g.nodes))
	for k, id := range g.nodes {
		rows[id] = []any{id, string(k)}
	}
	return rows
}

func (g *graph) edgeRows() [][]any {
	rows := make([][]any, len(g.uses))
	for i, u := range g.uses {
		rows[i] = []any{u.made, u.step, u.used}
	}
	return rows
}

// openAncestorsPostgres puts the graph into a PostgreSQL server of its own.
func openAncestorsPostgres(ctx context.Context, dir string, g *graph) (_ *side, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	s, err := startPostgres(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	do := func(statements ...string) error {
		for _, text := range statements {
			if _, err := s.conn.Exec(ctx, text); err != nil {
				return err
			}
		}
		return nil
	}
	if err := do(
		`CREATE TABLE node (id bigint NOT NULL, digest text NOT NULL)`,
		`CREATE TABLE edge (made bigint NOT NULL, step bigint NOT NULL, used bigint NOT NULL)`,
	); err != nil {
		return nil, err
	}
	if _, err := s.conn.CopyFrom(ctx, pgx.Identifier{"node"}, []string{"id", "digest"}, pgx.CopyFromRows(g.nodeRows())); err != nil {
		return nil, err
	}
	if _, err := s.conn.CopyFrom(ctx, pgx.Identifier{"edge"}, []string{"made", "step", "used"}, pgx.CopyFromRows(g.edgeRows())); err != nil {
		return nil, err
	}
	if err := do(
		`ALTER TABLE node ADD PRIMARY KEY (id)`,
		`CREATE UNIQUE INDEX ON node (digest) INCLUDE (id)`,
		`CREATE UNIQUE INDEX ON edge (made, step, used)`,
		`VACUUM ANALYZE`,
		`SET jit = off`,
		`SET enable_seqscan = off`,
		`SET enable_hashjoin = off`,
		`SET enable_mergejoin = off`,
		`SET plan_cache_mode = force_generic_plan`,
	); err != nil {
		return nil, err
	}
	text := closureSQL("$1", "JOIN")
	return serve(&side{
		name: "PostgreSQL", how: "a recursive query over a Unix socket, prepared, planned once and by indexes; edges from the index alone; no jit",
		close: s.Close,
		walk: func(ctx context.Context, of schema.Key) ([]edge, error) {
			rows, err := s.conn.Query(ctx, text, string(of))
			if err != nil {
				return nil, err
			}
			defer rows.Close()
			return edgesOf(rows)
		},
	}, nil)
}
