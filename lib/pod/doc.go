// SPDX-License-Identifier: Apache-2.0

// Package pod is the life of pods and of their containers: what a kubelet, or a person with a manifest, asks for. It
// knows no protocol and no type of Kubernetes.
//
// A pod is a record (lib/sandbox), a directory of this boot (lib/taskdir), one supervisor (lib/shim) that has its
// namespaces, and a network. There is no pause container, unless the configuration names an image for one. A container of a
// pod is one of lib/task whose tasks are in the pod's supervisor.
//
// # Calling again
//
// Each call may be made again at any time, also while the first one is under way, and after that was killed. A pod is
// meant by its name, namespace, uid and attempt, a container by its pod, name and attempt. [Host.Run] of a pod that is
// ready gives that pod; what a killed call has left is gone on with, or replaced. Nothing is ever reserved.
//
// # Locks
//
// The lock pod <namespace>/<name> is held by Run, Stop, Remove and by CreateContainer of the same pod, and that of a
// container's start by its StartContainer. It is held while the pod's network is made: who wants the same pod has to wait for
// just that.
//
// # After a crash
//
// A pod whose maker was killed is not ready. Its supervisor sees that start.lock is free, and waits some seconds for a Run that
// takes the lock and goes on; else it takes the lock itself and ends. What is left then is removed by the next Run, Stop or
// Remove of it.
package pod
