#!/bin/sh
# Keeps one of the links below /etc/alternatives. Its request is one line of JSON with plain words in it.
set -eu
request=$(cat)
word() { printf '%s' "$request" | sed -n "s/.*\"$1\":\"\([^\"\\\\]*\)\".*/\1/p"; }

case $(word operation) in
describe) echo '{"params": {"path": {"required": true}}}'; exit ;;
esac
root=$(word root)
root=${root%/}
path=$(word path)
link="$root/etc/alternatives/$(word name)"
[ -e "$root$path" ] || { echo "there is no $path" >&2; exit 1; }
right=false
if [ "$(readlink "$link" || :)" = "$path" ]; then right=true; fi
case $(word operation) in
check) printf '{"inSync": %s, "diff": "%s becomes %s"}\n' "$right" "$(word name)" "$path" ;;
apply)
  mkdir -p "${link%/*}"
  ln -sfn "$path" "$link"
  if $right; then echo '{"changed": false}'; else echo '{"changed": true}'; fi
  ;;
esac
