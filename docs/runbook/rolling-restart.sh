#!/bin/sh
# Restarts every node of a running cluster, one by one, while people go on
# writing: control planes, etcd, cell nodes, edges. See rolling-restart.md.
#
#   WAGGLE        the waggle command; default: waggle
#   WAGGLE_ADMIN  admin address of a control plane; default: 127.0.0.1:7480
#   RESTART       how to restart a node, run by sh with NODE, ROLES, ADDR and PID
#                 set, as in: ssh "${ADDR%:*}" sudo systemctl restart waggle-cell
#                 Default: kill -TERM "$PID", for `waggle dev --procs`, whose
#                 supervisor starts the node again.
#   NODES         only these nodes, in this order; default: all
#   PATIENCE      how many seconds a node may take to be back; default: 120
set -eu

WAGGLE=${WAGGLE:-waggle}
PATIENCE=${PATIENCE:-120}
RESTART=${RESTART:-'kill -TERM "$PID"'}
RUN=
for word in ${NODES:-}; do RUN="$RUN $word"; done

stop() {
	echo "rolling restart stopped: $*" >&2
	exit 1
}

# field NODE KEY: a value of `nodes show` in JSON; empty if nothing answers.
field() {
	"$WAGGLE" nodes show "$1" -o json 2>/dev/null | tr -d '\n' |
		sed -n "s/.*\"$2\": *\"\{0,1\}\([^\",}]*\).*/\1/p"
}

# roles NODE: as in chat,storage,resource
roles() {
	"$WAGGLE" nodes show "$1" -o json | tr -d '\n ' |
		sed -n 's/.*"roles":\[\([^]]*\)\].*/\1/p' | tr -d '"'
}

# names ROLE: the nodes that are alive and have it
names() {
	"$WAGGLE" nodes ls -o json | tr -d '\n ' | sed 's/},{/}\n{/g' | awk 1 |
		sed -n "/\"roles\":\[[^]]*\"$1\"/s/.*\"node\":\"\([^\"]*\)\".*\"state\":\"alive\".*/\1/p"
}

# healthy: status names no problem
healthy() {
	"$WAGGLE" status -o json 2>/dev/null | tr -d '\n ' | grep -q '"problems":\[\]'
}

# within SECONDS WHAT COMMAND…: waits until the command succeeds
within() {
	seconds=$1 what=$2
	shift 2
	waited=0
	until "$@"; do
		if [ "$waited" -ge "$seconds" ]; then
			"$WAGGLE" status >&2 || true
			stop "not within $seconds s: $what"
		fi
		sleep 1
		waited=$((waited + 1))
	done
}

# back NODE STARTED: it is alive with another process, or the same on another
# machine that was started anew, and answers as ready
back() {
	[ "$(field "$1" state)" = alive ] && [ "$(field "$1" pid)" != "$2" ]
}

restart() {
	NODE=$1
	PID=$(field "$NODE" pid)
	ADDR=$(field "$NODE" addr)
	ROLES=$(roles "$NODE")
	[ -n "$PID" ] || stop "there is no node $NODE"
	export NODE PID ADDR ROLES
	sh -c "$RESTART" || stop "restarting $NODE failed: $RESTART"
	within "$PATIENCE" "$NODE is back" back "$NODE" "$PID"
	within "$PATIENCE" "the cluster is healthy after the restart of $NODE" healthy
	echo "$NODE restarted"
}

restart_edge() {
	drained=
	if "$WAGGLE" edges drain "$1" --wait --timeout "${PATIENCE}s" --yes >/dev/null; then
		drained=yes
	else
		status=$?
		# 3: refused, there is no other edge.
		[ "$status" -eq 3 ] || stop "edge $1 was not drained; take it back with: waggle edges drain $1 --undo --yes"
		echo "$1 is the only edge: its people are disconnected and come back" >&2
	fi
	restart "$1"
	[ -z "$drained" ] || "$WAGGLE" edges drain "$1" --undo --wait --timeout "${PATIENCE}s" --yes >/dev/null ||
		stop "edge $1 was not taken back: waggle edges drain $1 --undo --yes"
}

healthy || { "$WAGGLE" status >&2 || true; stop "the cluster is not healthy to begin with"; }
if [ -z "$RUN" ]; then
	RUN=$(for role in controlplane etcd storage chat resource edge; do names "$role"; done | awk '!seen[$0]++')
fi
for node in $RUN; do
	case ",$(roles "$node")," in
	*,edge,*) restart_edge "$node" ;;
	*) restart "$node" ;;
	esac
done
echo "done"
