// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// Generation numbers the commits of a database: it is that of the last one that the transaction sees, of meta.db
// (durable) or run.db. Two transactions that see the same number see the same records; a commit adds 1. It is 0 where
// there is no database yet. A transaction that asks for that of the database which it writes shares its commit with no
// other update.
func (tx *Tx) Generation(durable bool) (int, error) {
	db, err := tx.db(durable)
	if err != nil || db == nil {
		return 0, err
	}
	if tx.write != nil && tx.durable == durable {
		if tx.alone = true; tx.shared {
			return 0, errAlone
		}
	}
	return db.generation(), nil
}

// RecordError says that a record cannot be decoded. Its kind is errdefs.ErrDataLoss.
type RecordError struct {
	Kind, Namespace, Key string
	Raw                  []byte // what the record has; it must not be changed
	Err                  error
}

// Error names the record and what is wrong with it.
func (e *RecordError) Error() string {
	return fmt.Sprintf("%s %q in namespace %q: damaged record: %v", e.Kind, e.Key, e.Namespace, e.Err)
}

// Unwrap gives the kind and the cause.
func (e *RecordError) Unwrap() []error { return []error{errdefs.ErrDataLoss, e.Err} }

// IsRecordError tells whether an error is of one record that cannot be decoded, and not of a whole database.
func IsRecordError(err error) bool {
	var r *RecordError
	return errors.As(err, &r)
}
