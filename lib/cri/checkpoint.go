// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/archive"
	"ctrd.dev/ctrd/lib/checkpoint"
	"ctrd.dev/ctrd/lib/pod"
)

// What containerd adds to the archive of a checkpoint, and checkpointctl reads.
const (
	dumpConfig = "config.dump" // whose it is: [dumpedConfig]
	dumpStatus = "status.dump" // the CRI's status
	dumpTimes  = "status"      // what containerd keeps of a container: [dumpedTimes]
)

// dumpedConfig is the ContainerConfig of checkpointctl (lib/metadata.go there).
type dumpedConfig struct {
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	RootfsImage     string    `json:"rootfsImage,omitempty"`
	RootfsImageRef  string    `json:"rootfsImageRef,omitempty"`
	RootfsImageName string    `json:"rootfsImageName,omitempty"`
	Runtime         string    `json:"runtime,omitempty"`
	Created         time.Time `json:"createdTime"`
	Checkpointed    time.Time `json:"checkpointedTime"`
	RestoredAt      time.Time `json:"restoredTime"`
	Restored        bool      `json:"restored"`
}

// dumpedTimes is its ContainerdStatus; times are in nanoseconds.
type dumpedTimes struct {
	CreatedAt, StartedAt int64
	Pid                  uint32
}

// CheckpointContainer writes a container that runs, and runs on, as an archive of containerd's form at the location. The file has its
// name when it is whole, and is root's alone, since all of the container's memory is in it.
func (r runtimeService) CheckpointContainer(ctx context.Context, q *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	if err := required("container_id", q.GetContainerId()); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(q.GetLocation()) {
		return nil, fmt.Errorf("location: %q is no absolute path: %w", q.GetLocation(), errdefs.ErrInvalidArgument)
	}
	if q.GetTimeout() < 0 {
		return nil, invalid("timeout", "%d seconds", q.GetTimeout())
	}
	if limit := q.GetTimeout(); limit > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(limit, longestTimeout))*time.Second)
		defer cancel()
	}
	if err := r.checkpoint(ctx, q.GetContainerId(), q.GetLocation()); err != nil {
		return nil, fmt.Errorf("checkpoint container %q: %w", q.GetContainerId(), err)
	}
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

// longestTimeout bounds what a client says in seconds.
const longestTimeout = 24 * 60 * 60

func (r runtimeService) checkpoint(ctx context.Context, id, location string) error {
	host := r.s.pods()
	st, err := host.ContainerStatus(ctx, id)
	if err != nil {
		return err
	}
	if st.State != pod.Running {
		return fmt.Errorf("it does not run: %w", errdefs.ErrFailedPrecondition)
	}
	t, err := host.Open(ctx, st.ID)
	if err != nil {
		return err
	}
	defer t.Close()
	files := map[string][]byte{}
	for name, v := range map[string]any{
		dumpConfig: dumpedConfig{
			ID: st.ID, Name: st.Name, RootfsImage: st.Image, RootfsImageName: st.Image, RootfsImageRef: st.ImageRef,
			Runtime: t.Container.Runtime.Name, Created: st.Created, Checkpointed: time.Now(),
		},
		dumpStatus: containerStatusMessage(&st),
		dumpTimes:  dumpedTimes{CreatedAt: st.Created.UnixNano(), StartedAt: st.Started.UnixNano(), Pid: uint32(st.PID)},
	} {
		if files[name], err = json.Marshal(v); err != nil {
			return err
		}
	}
	return archive.ToFile(ctx, location, 0o600, func(w io.Writer) error {
		return checkpoint.Archive(ctx, r.s.d, t, w, checkpoint.ArchiveOptions{Log: st.LogFile, Files: files})
	})
}
