# apt.sh: Debian packages from a configuration of our own, sourced by the other
# scripts here. Expects the top folder as the current one.
#
# apt reads the machine's own Debian sources; on Debian 12 bookworm-backports is
# added, for QEMU 10, libvirt 11, Linux 6.12 and a Go that can fetch a newer one,
# and for nothing else. Lists, downloads and settings live in build/cache/apt.

apt_dir=$PWD/build/cache/apt
apt_policy=/usr/sbin/policy-rc.d
apt_policy_mark='# Placed by vmmigrate while it installs packages.'

apt_run() {
  local tool=$1
  shift
  LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 "$tool" -c "$apt_dir/apt.conf" "$@"
}

# apt_sources: "FILE RELEASE URI" of each Debian source that the machine has.
apt_sources() {
  local codename=$1
  apt-get indextargets --no-release-info --format '$(SOURCESENTRY) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed 's/:[0-9]* / /' | sort -u |
    awk -v c="$codename" '$2 ~ "^(" c "|stable|oldstable)(-updates|-security|-backports)?(/updates)?$"'
}

# apt_setup writes the configuration and fetches the package lists, once an hour.
apt_setup() {
  local id codename sources file uri
  id=$(. /etc/os-release && echo "$ID")
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  case $id/$codename in
    debian/bookworm | debian/trixie) ;;
    *) echo "==> note: made for Debian 12 and 13, this is $id ${codename:-of no known release}; trying all the same" ;;
  esac

  rm -rf "$apt_dir/sources"
  mkdir -p "$apt_dir"/{sources,lists/partial,archives/partial}
  sources=$(apt_sources "$codename")
  while read -r file _; do
    [ -z "$file" ] || ln -sf "$file" "$apt_dir/sources/"
  done <<<"$sources"
  uri=$(awk -v c="$codename" '$2 == c || $2 ~ /^(old)?stable$/ { print $3; exit }' <<<"$sources")
  local keyed="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${uri:-http://deb.debian.org/debian}"
  if [ -z "$uri" ]; then
    echo "deb $keyed $codename main" >"$apt_dir/sources/vmmigrate.list"
  fi
  if [ "$codename" = bookworm ] && ! grep -q -- -backports <<<"$sources"; then
    echo "deb $keyed bookworm-backports main" >"$apt_dir/sources/vmmigrate-backports.list"
  fi
  apt_preferences "$codename" >"$apt_dir/preferences"
  apt_settings >"$apt_dir/apt.conf"
  rm -f "$apt_dir/install.log"

  if [ -z "$(find "$apt_dir/lists.read" -mmin -60 2>/dev/null)" ]; then
    echo "==> reading Debian's package lists${uri:+ from $uri}"
    # A list that cannot be had is not the end: what is missing then is said below.
    if apt_run apt-get -qq --error-on=any update; then
      touch "$apt_dir/lists.read"
    else
      echo "==> note: some package lists could not be read"
    fi
  fi
}

# Backports are used for these alone, so that they draw no newer systemd or other
# part of the machine after them. A Go from there needs no pin: its name is its own.
apt_preferences() {
  if [ -f /etc/apt/preferences ]; then cat /etc/apt/preferences && echo; fi
  local name
  for name in src:qemu src:libvirt src:seabios src:linux src:linux-signed-amd64; do
    printf 'Package: %s\nPin: release n=%s-backports\nPin-Priority: 600\n\n' "$name" "$1"
  done
}

apt_settings() {
  cat <<CONF
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt_dir/sources";
Dir::Etc::preferences "$apt_dir/preferences";
Dir::State::lists "$apt_dir/lists";
Dir::Cache "$apt_dir";
Dir::Cache::archives "$apt_dir/archives";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Retries "3";
DPkg::Lock::Timeout "300";
DPkg::Use-Pty "false";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
}

# apt_has PACKAGE: whether the package can be had; apt_version: which version of it.
apt_has() { [ -n "$(apt_version "$1")" ]; }
apt_version() {
  apt_run apt-cache policy "$1" | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'
}

# apt_newest_go: the newest golang-1.N-go that can fetch a newer Go (1.21 was the
# first), or nothing. It stands beside a Go that Debian's golang-go may have put on
# PATH, and changes nothing there.
apt_newest_go() {
  apt_run apt-cache pkgnames golang-1. | sed -n 's/^golang-1\.\([0-9]*\)-go$/\1/p' | sort -n |
    awk '$1 >= 21 { newest = $1 } END { if (newest) print "golang-1." newest "-go" }'
}

# apt_install PACKAGES: install them, and remove none; no service is started, and
# none stays enabled. What an interrupted run left half done is finished first.
apt_install() {
  local status=0
  apt_hold_services
  trap apt_release_services EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  if apt_unfinished; then
    echo "==> finishing an installation that was interrupted"
    LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive dpkg --configure -a --force-confold >"$apt_dir/install.log" 2>&1 || true
  fi
  touch "$apt_dir/unfinished"
  apt_run apt-get -qq -y --no-remove -f install "$@" >>"$apt_dir/install.log" 2>&1 || status=$?
  apt_release_services
  trap - EXIT INT TERM HUP
  if [ "$status" != 0 ]; then
    tail -n 25 "$apt_dir/install.log" >&2
    echo "the installation failed; all of its output is in build/cache/apt/install.log" >&2
    return 1
  fi
  rm -rf "$apt_dir/unfinished" "$apt_dir/archives" "$apt_dir"/*.bin
}

# apt_unfinished: whether an installation of ours was interrupted, so that a
# command may be there whose package is not yet set up.
apt_unfinished() { [ -e "$apt_dir/unfinished" ]; }

# apt_hold_services: Debian's packages ask policy-rc.d before they start a service;
# ours says no. What another owner put there is kept beside it, and put back.
apt_hold_services() {
  apt_restore_policy # left by a run that was killed
  if [ -e "$apt_policy" ] || [ -L "$apt_policy" ]; then mv "$apt_policy" "$apt_policy.vmmigrate-kept"; fi
  printf '#!/bin/sh\n%s\nexit 101\n' "$apt_policy_mark" >"$apt_policy"
  chmod 755 "$apt_policy"
  # After a run that was killed, what was enabled before that one counts.
  apt_unfinished || apt_enabled >"$apt_dir/enabled.before"
}

apt_release_services() {
  apt_restore_policy
  local link unit
  apt_enabled | comm -13 "$apt_dir/enabled.before" - | while read -r link; do
    unit=${link##*/}
    # systemd's own units come with systemd, and belong to it.
    case $(dpkg-query -S "/lib/systemd/system/$unit" "/usr/lib/systemd/system/$unit" 2>/dev/null) in
      systemd*) continue ;;
    esac
    deb-systemd-helper disable "$unit" >/dev/null 2>&1 || rm -f "$link"
  done
}

apt_enabled() { find /etc/systemd/system -path '*.wants/*' -type l 2>/dev/null | sort; }

apt_restore_policy() {
  if grep -qsF "$apt_policy_mark" "$apt_policy"; then rm -f "$apt_policy"; fi
  if [ -e "$apt_policy.vmmigrate-kept" ] || [ -L "$apt_policy.vmmigrate-kept" ]; then
    mv "$apt_policy.vmmigrate-kept" "$apt_policy"
  fi
}
