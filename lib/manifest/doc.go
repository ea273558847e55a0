// SPDX-License-Identifier: Apache-2.0

// Package manifest reads Kubernetes manifests of pods, says what each asks of the CRI, and keeps such a pod running
// where there is no kubelet: its init containers, sidecars, restarts, probes and volumes.
//
// The meaning of each field is that of the Kubernetes API (core/v1), as the kubelet carries it out. Fields that only a
// scheduler or a cluster can make sense of are left alone; a field that would change what runs and is not supported is
// an error, which names it.
//
// # On disk
//
// DIR/UID is the directory of a pod ([Home]): the manifest that it was made from, the files of its volumes and its logs. The
// UID is random and new for each pod that is made.
//
// # Locks
//
// DIR/UID/lock is held by the process that keeps the pod, or that makes or ends it; DIR/.making while the home of a name is looked for
// and made.
//
// # After a crash
//
// Containers go on without a keeper, and are not restarted. The next one, of whatever command, finds them by their labels and goes
// on. A directory that nobody holds and that no pod has is removed by [Sweep].
package manifest
