#!/bin/sh
# Whole commands over 100, 1,000 and 10,000 templated files, against a bare loop in C, git ls-remote and CFEngine.
# Run by hand on a quiet machine, as root:  tests/benches/whole.sh [SIZES]
# Needs: a release build, cc, hyperfine, git, time; with CFENGINE=1 also cfengine3.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
towpath="$here/../../target/release/towpath"
[ -x "$towpath" ] || { echo "build it first: cargo build --release" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cc -O2 "$here/bare.c" -o "$work/bare"
export GIT_CONFIG_GLOBAL=/dev/null
cpu() { /usr/bin/time -f '%U %S' -o "$work/time" "$@" >/dev/null 2>&1; awk '{printf "%.3f", $1 + $2}' "$work/time"; }
for files in ${1:-100 1000 10000}; do
  d="$work/$files"
  mkdir -p "$d/work/templates" "$d/root"
  git init -q --bare -b main "$d/fleet.git"
  git init -q -b main "$d/work"
  printf '# managed file {{ item }}\nname = app{{ item }}\nport = {{ 10000 + item }}\nhost = {{ node.name }}\n' > "$d/work/templates/app.j2"
  cat > "$d/work/fleet.yaml" <<X
metadata: {apiVersion: v1alpha, kind: Namespace, name: app}
---
metadata: {apiVersion: v1alpha, kind: Node, name: n1}
---
metadata: {apiVersion: v1alpha, kind: TaskBook, name: files, namespace: app}
spec:
  targets: {nodes: [n1]}
  tasks:
    - name: files
      loop: "{{ range($files) | list }}"
      file: {path: "/f/{{ item }}.conf", template: templates/app.j2}
X
  git -C "$d/work" add -A
  git -C "$d/work" -c user.name=b -c user.email=b@example.invalid commit -qm files
  git -C "$d/work" push -q "$d/fleet.git" main
  cat > "$d/agent.yaml" <<X
metadata: {apiVersion: v1alpha, kind: Config}
spec: {node: n1, root: $d/root, stateDir: $d/state, listen: {socket: $d/socket}, sources: [{name: fleet, url: $d/fleet.git}]}
X
  echo "== $files files"
  echo "first apply, CPU seconds: $(cpu "$towpath" agent --once --config "$d/agent.yaml")"
  "$work/bare" "$files" "$d/root/f" n1
  hyperfine -N --warmup 3 --runs 20 --export-json "$work/result.json" \
    "$work/bare $files $d/root/f n1" \
    "$towpath agent --once --config $d/agent.yaml" >/dev/null 2>&1
  python3 - "$work/result.json" <<'P'
import json, statistics, sys
bare, agent = json.load(open(sys.argv[1]))["results"]
cpu = lambda r: (r["user"] + r["system"]) * 1000
print(f"unchanged: bare loop {cpu(bare):.1f} ms of CPU, agent --once {cpu(agent):.1f} ms: {cpu(agent) / cpu(bare):.1f} times")
P
  if [ "${CFENGINE:-}" = 1 ]; then
    export CFENGINE_TEST_OVERRIDE_WORKDIR="$d/cf"
    mkdir -p "$d/cf/inputs" "$d/cf/bin" "$d/cf/outputs" "$d/cf/state" "$d/cf/ppkeys" "$d/cfout"
    chmod -R 700 "$d/cf"
    for program in /usr/bin/cf-* /usr/sbin/cf-*; do if [ -x "$program" ]; then ln -sf "$program" "$d/cf/bin/"; fi; done
    cf-key >/dev/null 2>&1 || true
    {
      echo 'body common control { bundlesequence => { "main" }; }'
      echo 'bundle agent main { files:'
      for file in $(seq 0 $((files - 1))); do
        printf '"%s/%s.conf" create => "true", content => "# managed file %s\nname = app%s\nport = %s\nhost = n1\n";\n' "$d/cfout" "$file" "$file" "$file" $((10000 + file))
      done
      echo '}'
    } > "$d/cf/inputs/promises.cf"
    chmod 600 "$d/cf/inputs/promises.cf"
    echo "CFEngine: first apply $(cpu cf-agent -K -f "$d/cf/inputs/promises.cf") s of CPU, unchanged $(cpu cf-agent -K -f "$d/cf/inputs/promises.cf") s"
  fi
done
