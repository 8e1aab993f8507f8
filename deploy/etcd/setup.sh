#!/bin/sh
# Prepares an etcd for one cluster of Towpath: a role that reads and writes below /towpath/CLUSTER/ alone, a user whose
# name is the common name (CN) of the nodes' client certificates, authentication, and compaction.
#   setup.sh CLUSTER USER
# Runs etcdctl with the ETCDCTL_ variables of its environment (ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT,
# ETCDCTL_KEY), as somebody who may do everything. It can be run again: what is there already stays.
set -eu
cluster=${1:?usage: setup.sh CLUSTER USER}
user=${2:?usage: setup.sh CLUSTER USER}
export ETCDCTL_API=3
has() { etcdctl "$1" list | grep -qxF -e "$2"; }
has role "towpath-$cluster" || etcdctl role add "towpath-$cluster"
etcdctl role grant-permission "towpath-$cluster" readwrite "/towpath/$cluster/" --prefix
has user root || etcdctl user add root --no-password
etcdctl user grant-role root root
has user "$user" || etcdctl user add "$user" --no-password
etcdctl user grant-role "$user" "towpath-$cluster"
etcdctl auth enable
