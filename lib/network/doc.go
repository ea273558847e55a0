// SPDX-License-Identifier: Apache-2.0

// Package network attaches network namespaces to networks by CNI plugins (https://www.cni.dev, specification 1.1),
// and takes them off again, exactly once for what was attached, whoever was killed meanwhile.
//
// A caller makes a [Host] of directories. [Host.Setup] pins a network namespace and attaches it; [Host.Teardown]
// undoes that. Both name the attachment by an id that is used once: a task's incarnation or a sandbox, never a
// name that another can have later.
//
// # On disk
//
// Kept/<group>/<id>/record.json: what is attached, with the configuration as it was then, so that DEL is
// given what ADD was given although the files have changed. It is written and synced before the first plugin
// runs. now.json: the same with the result of each, not synced. removing: a teardown has begun. Kept/own.json:
// what was chosen for the ready-made network. Kept/boot: the boot of which no attachment of an earlier one is left.
//
// Pins/<group>/<id>: a network namespace, bind-mounted. Pins/results/ is libcni's cache. IPAM/<network>: the
// addresses of the ready-made network.
//
// # Locks
//
// A network's lock (rank network, the network's name) is held while its plugins run for one attachment. A plugin
// inherits it: when the process that has started a plugin is killed, the plugin runs on, and the next one
// of that network waits for its end. The lock "ports" is held while a record with published ports is written.
//
// # After a crash
//
// A record without a process that cares for it is torn down by [Host.GC], by the next Setup of the same id,
// and by the first Setup after a boot. DEL is idempotent, so that doing it twice is no harm.
package network
