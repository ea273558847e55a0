// SPDX-License-Identifier: Apache-2.0

package state

import (
	"testing"

	bolt "go.etcd.io/bbolt"
)

// SetSchema rewrites a database's schema number, as a newer program would.
func SetSchema(t *testing.T, path, n string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket(rootBucket).Put(schemaKey, []byte(n)) }); err != nil {
		t.Fatal(err)
	}
}
