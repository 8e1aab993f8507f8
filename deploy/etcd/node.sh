#!/bin/sh
# Confines one node of a cluster in etcd: a role that reads below /towpath/CLUSTER/ and writes only the keys that the node
# writes, and a user whose name is the common name (CN) of the node's client certificate for etcd.
#   node.sh CLUSTER NODE [USER]
# USER is NODE if it is left out; it must differ between clusters that share an etcd. Runs etcdctl with the ETCDCTL_
# variables of its environment, as an administrator. It can be run again: what is there already stays.
set -eu
cluster=${1:?usage: node.sh CLUSTER NODE [USER]}
node=${2:?usage: node.sh CLUSTER NODE [USER]}
user=${3:-$node}
export ETCDCTL_API=3
# No name of a cluster or node holds a slash: two of them cannot make the role of a third.
role="towpath/$cluster/$node"
keys="/towpath/$cluster"
has() { etcdctl "$1" list | grep -qxF -e "$2"; }
has role "$role" || etcdctl role add "$role"
etcdctl role grant-permission "$role" read "$keys/" --prefix
# The node's own records: no other node can write or delete them.
for kind in joined alive sequence fence facts state; do
  etcdctl role grant-permission "$role" readwrite "$keys/fleet/$kind/$node"
done
# Records that several nodes write or remove. Their names begin with the book: etcd cannot tell the nodes apart here, and
# the signatures do.
for prefix in shared fleet/held fleet/queue fleet/vote fleet/elect fleet/recovery fleet/accepted inbox; do
  etcdctl role grant-permission "$role" readwrite "$keys/$prefix/" --prefix
done
has user root || etcdctl user add root --no-password
etcdctl user grant-role root root
has user "$user" || etcdctl user add "$user" --no-password
etcdctl user grant-role "$user" "$role"
etcdctl auth enable
