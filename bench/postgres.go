package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// postgres is a PostgreSQL server of its own on the same disk, in groups.
func postgres() contestant {
	return contestant{
		Name: "PostgreSQL, COPY", Durable: true, Goal: 2,
		How:  "its own settings, one COPY for a group over a Unix socket, a unique index on the digest",
		open: openPostgres,
	}
}

type postgresDB struct {
	*postgresServer
	group *group
}

func openPostgres(ctx context.Context, dir string, _ int) (_ peer, err error) {
	s, err := startPostgres(ctx, dir)
	if err != nil {
		return nil, err
	}
	if _, err := s.conn.Exec(ctx, `CREATE TABLE entry (id bigserial PRIMARY KEY, digest bytea NOT NULL UNIQUE, body bytea NOT NULL)`); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	p := &postgresDB{postgresServer: s}
	p.group = newGroup(func(entries [][]byte) error { return p.commit(ctx, entries) })
	return p, nil
}

// postgresServer is a running server and a connection to it.
type postgresServer struct {
	conn    *pgx.Conn
	stop    func() error
	sockets string
}

// startPostgres starts a server whose data is in dir.
func startPostgres(ctx context.Context, dir string) (_ *postgresServer, err error) {
	as, err := postgresUser()
	if err != nil {
		return nil, err
	}
	initdb, err := postgresBinary("initdb")
	if err != nil {
		return nil, err
	}
	ctl, err := postgresBinary("pg_ctl")
	if err != nil {
		return nil, err
	}
	if closed := closedFolder(dir); as != nil && closed != "" {
		return nil, &missingError{closed + " lets no other user in, and PostgreSQL does not run as root: take another -dir"}
	}
	p := &postgresServer{stop: func() error { return nil }}
	// The path of a socket has 107 bytes at most, so that it cannot be in dir.
	if p.sockets, err = os.MkdirTemp("", "pg"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if as != nil {
		for _, d := range []string{dir, p.sockets} {
			if err := os.Chown(d, int(as.Uid), int(as.Gid)); err != nil {
				return nil, err
			}
		}
	}
	data := filepath.Join(dir, "data")
	do := func(name string, args ...string) error {
		cmd := exec.Command(name, args...)
		cmd.Dir = p.sockets
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out.Bytes()))
		}
		return nil
	}
	if err := do(initdb, "-A", "trust", "-U", "bench", "-E", "UTF8", "--locale=C", "-D", data); err != nil {
		return nil, err
	}
	if err := do(ctl, "-D", data, "-w", "-l", filepath.Join(dir, "log"), "-o", "-c listen_addresses='' -c unix_socket_directories='"+p.sockets+"'", "start"); err != nil {
		return nil, err
	}
	p.stop = func() error { return do(ctl, "-D", data, "-w", "-m", "immediate", "stop") }
	if p.conn, err = pgx.Connect(ctx, "host="+p.sockets+" user=bench dbname=postgres"); err != nil {
		return nil, err
	}
	return p, nil
}

// Close stops the server.
func (p *postgresServer) Close() error {
	var err error
	if p.conn != nil {
		err = p.conn.Close(context.Background())
	}
	return errors.Join(err, p.stop(), os.RemoveAll(p.sockets))
}

func (p *postgresDB) commit(ctx context.Context, entries [][]byte) error {
	_, err := p.conn.CopyFrom(ctx, pgx.Identifier{"entry"}, []string{"digest", "body"},
		pgx.CopyFromSlice(len(entries), func(i int) ([]any, error) {
			digest := sha256.Sum256(entries[i])
			return []any{digest[:], entries[i]}, nil
		}))
	return err
}

func (p *postgresDB) Append(ctx context.Context, entry []byte) error {
	return p.group.append(ctx, entry)
}

func (p *postgresDB) Close() error {
	p.group.close()
	return p.postgresServer.Close()
}

// closedFolder is the first folder above dir that not everybody may pass, ""
// if there is none.
func closedFolder(dir string) string {
	for d := filepath.Dir(dir); ; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err != nil || info.Mode()&0o001 == 0 {
			return d
		}
		if d == filepath.Dir(d) {
			return ""
		}
	}
}

// postgresBinary finds a program of PostgreSQL, which Debian keeps out of the
// path.
func postgresBinary(name string) (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err == nil && len(found) > 0 {
		return found[len(found)-1], nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", &missingError{"PostgreSQL's " + name + " is not installed"}
}

// postgresUser is whom the server runs as: nil is ourselves, if we are not
// root.
func postgresUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, &missingError{"PostgreSQL does not run as root, and there is no user postgres"}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
