// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"strings"
	"testing"
)

// What a unit leaves in the background outlives the unit, however that ends.
func TestDetached(t *testing.T) {
	// A run -d that is cut short takes the container back: it must have been done.
	const stays = `sh -c 'ctr-task run -d --name "$0" $IMG sleep 1000 && touch $CTRD_ROOT/done.$0; exec sleep 1000'`
	on(t, func(t *testing.T, m *machine) {
		// With cgroup v1, systemd clears a hierarchy that none of its units uses any more, of what others have
		// made there, too. On hosts there is always a unit that does.
		m.sh(t, `systemd-run -q -p Delegate=yes sleep infinity`)
		for _, c := range []struct{ name, script string }{
			{"ended", `unit ended --wait ctr-task run -d --name ended $IMG sleep 1000`},
			{"stopped", `unit stopped ` + stays + ` stopped; wait_for test -e $CTRD_ROOT/done.stopped; systemctl stop stopped`},
			{"killed", `unit killed ` + stays + ` killed; wait_for test -e $CTRD_ROOT/done.killed; systemctl kill -s KILL killed`},
			{"group", `unit group ` + stays + ` group; wait_for test -e $CTRD_ROOT/done.group; echo 1 >"$(v2 group)/cgroup.kill"`},
			{"delegated", `unit delegated -p Delegate=yes ` + stays + ` delegated; wait_for test -e $CTRD_ROOT/done.delegated; systemctl stop delegated`},
			// A login session is a scope.
			{"session", `unit session --scope ` + stays + ` session & wait_for test -e $CTRD_ROOT/done.session; systemctl stop session.scope; wait || :`},
		} {
			t.Run(c.name, func(t *testing.T) {
				m.sh(t, c.script)
				got := m.sh(t, `c=`+c.name+`
					active() { systemctl is-active -q $c.service || systemctl is-active -q $c.scope; }
					gone() { ! active; }
					wait_for gone
					running $c
					ctr-task exec $c true
					cgroups $(field $c supervisor)
					cgroups $(field $c pid)
					ctr-task kill $c
					ctr-task wait $c || :`)
				if strings.Contains(got, "/"+c.name+".s") {
					t.Errorf("it is still in the cgroup of the unit:\n%s", got)
				}
			})
		}
		t.Run("transient", func(t *testing.T) {
			m.sh(t, `unit transient --wait ctr-task run -d --rm --name transient $IMG sleep 1000
				running transient
				ctr-task kill transient
				absent() { ! ctr-task inspect transient >/dev/null 2>&1; }
				wait_for absent`)
		})
	})
}

// A foreground run in a unit with Delegate=yes is part of the unit: systemctl sees and reaches it.
func TestUnit(t *testing.T) {
	on(t, func(t *testing.T, m *machine) {
		// The program says when it is ready to be asked to end, and that it was, on the volume.
		run := `run() { unit "$@" ctr-task run --rm --name web -v ` + m.Dir + `:/out $IMG sh -c 'trap "echo TERM >>/out/ended; exit 0" TERM; echo up >>/out/up; sleep 1000 & wait'; }
			up() { [ -s ` + m.Dir + `/up ] && running web; }
			absent() { ! ctr-task inspect web >/dev/null 2>&1; }
			inactive() { ! systemctl is-active -q web; }
			again() { up && now=$(field web pid 2>/dev/null) && [ "$now" -gt 0 ] 2>/dev/null && [ "$now" != "$1" ]; }
			rm -f ` + m.Dir + `/up
			`
		m.sh(t, run+`run web -p Delegate=yes -p KillMode=mixed
			wait_for up
			for p in pid supervisor; do cgroups $(field web $p) | grep -q /system.slice/web.service; done
			# Its limits are those of the unit, its processes show.
			systemctl status web | grep -q 'sleep 1000'
			systemctl status web | grep -q ctr-shim
			systemctl stop web
			wait_for absent`)
		if got := m.sh(t, `cat `+m.Dir+`/ended`); got != "TERM" {
			t.Errorf("the program was not asked to end: %q", got)
		}
		m.sh(t, run+`run web -p Delegate=yes
			wait_for running web
			systemctl kill -s KILL web
			wait_for inactive
			! running web
			systemctl reset-failed web || :`)
		m.sh(t, run+`run web -p Delegate=yes -p KillMode=mixed -p Restart=always -p RestartSec=100ms -p StartLimitIntervalSec=0
			wait_for up
			one=$(field web pid)
			systemctl restart web
			wait_for again $one
			two=$now
			systemctl kill -s KILL web
			wait_for again $two
			# The supervisor alone, and the client alone.
			three=$(field web pid)
			kill -KILL $(field web supervisor)
			wait_for again $three
			four=$now
			rm `+m.Dir+`/up
			kill -KILL $(systemctl show -P MainPID web)
			wait_for again $four
			systemctl stop web
			wait_for absent`)
	})
}

// Without Delegate=yes the container is outside of the unit, and that is told. It ends with the unit all the same.
func TestUndelegated(t *testing.T) {
	on(t, func(t *testing.T, m *machine) {
		m.sh(t, `absent() { ! ctr-task inspect web >/dev/null 2>&1; }
			unit web -p StandardError=file:`+m.Dir+`/told ctr-task run --rm --name web $IMG sleep 1000
			wait_for running web
			! cgroups $(field web pid) | grep web.service
			! cgroups $(field web supervisor) | grep web.service
			grep -q 'web.service has no Delegate=yes' `+m.Dir+`/told
			systemctl kill -s KILL web
			wait_for absent
			systemctl reset-failed web || :
			rm `+m.Dir+`/told
			unit web -p StandardError=file:`+m.Dir+`/told ctr-task run --rm --cgroups enabled --name web -v `+m.Dir+`:/out $IMG sh -c 'trap "exit 0" TERM; touch /out/up; sleep 1000 & wait'
			wait_for test -e `+m.Dir+`/up
			[ ! -s `+m.Dir+`/told ]
			systemctl stop web
			wait_for absent`)
		out, errs, err := m.try(`unit split --pipe --wait ctr-task run --rm --cgroups split $IMG true`)
		if err == nil || !strings.Contains(errs, "add Delegate=yes to split.service") {
			t.Errorf("--cgroups split: %v\n%s%s", err, out, errs)
		}
		out, errs, err = m.try(`ctr-task run --rm --cgroups split $IMG true`)
		if err == nil || !strings.Contains(errs, "no service or scope") {
			t.Errorf("--cgroups split without a unit: %v\n%s%s", err, out, errs)
		}
	})
}

// What is started in the background with --cgroups split ends with the unit.
func TestSplitDetached(t *testing.T) {
	on(t, func(t *testing.T, m *machine) {
		m.sh(t, `unit two -p Delegate=yes -p TimeoutStopSec=2 sh -c 'for n in 1 2; do ctr-task run -d --name c$n --cgroups split $IMG sleep 1000; done; exec sleep 1000'
			wait_for running c2
			for c in c1 c2; do for p in pid supervisor; do cgroups $(field $c $p) | grep -q two.service; done; done
			supervisor=$(field c1 supervisor)
			systemctl stop two
			ended() { ! kill -0 $supervisor 2>/dev/null; }
			wait_for ended
			! running c1
			! running c2`)
	})
}

// systemd makes the cgroup, in a slice, and shows the limits.
func TestDriver(t *testing.T) {
	on(t, func(t *testing.T, m *machine) {
		limits := "-m 64m --pids-limit 50"
		if m.mode == "unified" {
			limits = "" // scripts/nsboot has no controllers there
		}
		got := m.sh(t, `ctr-task run -d --name box --cgroup-driver systemd --cgroup-parent ctr-test.slice `+limits+` $IMG sleep 1000 >/dev/null
			scope=$PREFIX-default--box.scope
			systemctl is-active -q $scope
			cgroups $(field box pid) | grep -q /ctr.slice/ctr-test.slice/$scope
			cgroups $(field box supervisor) | grep -q /system.slice/$PREFIX-shim-default--box-.*.scope
			ctr-task exec box true
			ctr-task pause box
			ctr-task resume box
			systemctl show -P MemoryLimit -P TasksMax $scope
			ctr-task kill box
			ctr-task wait box >/dev/null || :
			absent() { ! systemctl list-units --all --plain --no-legend "$PREFIX-*" | grep -q .; }
			wait_for absent`)
		if m.mode == "hybrid" && got != "67108864\n50" {
			t.Errorf("systemd shows the limits %q", got)
		}
		// The supervisor's death and another start.
		m.sh(t, `ctr-task start box
			for n in $(seq 5); do
				kill -KILL $(field box supervisor)
				ctr-task wait box || :
				# The scope is gone at once, whether systemd has seen the end of its processes or not.
				! systemctl list-units --all --plain --no-legend $PREFIX-default--box.scope | grep .
				ctr-task start box
				running box
			done
			ctr-task rm -f box`)
		for _, parent := range []string{"machine", "/a/b", "a--b.slice"} {
			out, errs, err := m.try(`ctr-task run --rm --cgroup-driver systemd --cgroup-parent ` + parent + ` $IMG true`)
			if err == nil || !strings.Contains(errs, "slice") {
				t.Errorf("parent %s: %v\n%s%s", parent, err, out, errs)
			}
		}
	})
}
