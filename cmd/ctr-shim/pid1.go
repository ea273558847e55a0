// SPDX-License-Identifier: Apache-2.0

package main

// The first process of a container that was made with --init is a ctr-shim, too. It never comes to main.
import _ "ctrd.dev/ctrd/lib/pid1"
