// SPDX-License-Identifier: Apache-2.0

// pin finishes the namespaces that this process was born in. Its arguments are the kinds of them ('n' network, 'p' PID), the
// hostname (empty: none) and the name and value of each sysctl. It says "ok" or what went wrong, as a line at descriptor 4.
// It returns unless there is a PID namespace: of that it becomes the first process.
void pin(int argc, char **argv);
