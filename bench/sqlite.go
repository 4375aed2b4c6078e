package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"net/url"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver
)

// sqlite is SQLite in the process, in groups.
func sqlite() contestant {
	return contestant{
		Name: "SQLite, modernc" + version("modernc.org/sqlite"), Durable: true, Goal: 2,
		How:  "WAL, synchronous FULL, one transaction for a group, a unique index on the digest",
		open: openSQLite,
	}
}

type sqliteDB struct {
	db     *sql.DB
	insert *sql.Stmt
	group  *group
}

func openSQLite(ctx context.Context, dir string, _ int) (peer, error) {
	pragmas := url.Values{"_pragma": {"journal_mode(WAL)", "synchronous(FULL)"}}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "db")+"?"+pragmas.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	s := &sqliteDB{db: db}
	if _, err := db.ExecContext(ctx, `CREATE TABLE entry (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, body BLOB NOT NULL)`); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if s.insert, err = db.PrepareContext(ctx, `INSERT INTO entry (digest, body) VALUES (?, ?)`); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.group = newGroup(func(entries [][]byte) error { return s.commit(ctx, entries) })
	return s, nil
}

func (s *sqliteDB) commit(ctx context.Context, entries [][]byte) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	insert := tx.StmtContext(ctx, s.insert)
	for _, e := range entries {
		digest := sha256.Sum256(e)
		if _, err := insert.ExecContext(ctx, digest[:], e); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (s *sqliteDB) Append(ctx context.Context, entry []byte) error { return s.group.append(ctx, entry) }

func (s *sqliteDB) Close() error {
	s.group.close()
	return errors.Join(s.insert.Close(), s.db.Close())
}
