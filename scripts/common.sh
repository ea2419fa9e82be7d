# What scripts/run and scripts/test share: packages, configuring, building. To be sourced.
# Not here: what is built and run. All messages go to standard error.

pkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s: %s\n' "${pkv_script:-scripts}" "$*" >&2; }
# Exit code 2: 1 is a failed verification (pkv) or a failed test.
die() {
  say "$*"
  exit 2
}

# The packages of the named sections of packages.txt.
packages_of() {
  awk -v wanted=" $* " '/^\[/ { section = substr($0, 2, length($0) - 2); next }
    /^[^#[:space:]]/ && index(wanted, " " section " ") { print $1 }' "$pkv_root/scripts/packages.txt"
}

# Those of the arguments that dpkg does not know as installed.
missing_packages() {
  local installed package
  installed=" $(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' "$@" 2>/dev/null |
    awk '$1 ~ /^.i/ { printf "%s ", $2 }')"
  for package in "$@"; do
    [[ $installed == *" $package "* ]] || echo "$package"
  done
}

# Runs apt-get as root, without questions; $sudo is empty or "sudo -n".
apt_install() {
  local sudo=$1
  shift
  local log
  log=$(mktemp) || return 1
  apt_get() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" </dev/null >>"$log" 2>&1; }
  if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
    apt_get update || true
  fi
  # Old lists name versions that mirrors no longer have: fetch them anew before giving up.
  if apt_get install --no-install-recommends "$@" ||
    { apt_get update && apt_get install --no-install-recommends "$@"; }; then
    rm -f "$log"
    return 0
  fi
  tail -n 20 "$log" >&2
  rm -f "$log"
  return 1
}

# Installs what is missing of the named sections, or says what to install and exits 2.
ensure_packages() {
  local missing sudo
  if ! command -v dpkg-query >/dev/null; then
    command -v cmake >/dev/null || die "this is no Debian system; install the equivalents of: $(packages_of "$@" | xargs)"
    return
  fi
  mapfile -t missing < <(missing_packages $(packages_of "$@"))
  ((${#missing[@]})) || return 0
  if [[ $(id -u) == 0 ]]; then
    sudo=
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo='sudo -n'
  else
    say "these packages are missing; install them with"
    printf '  sudo apt-get install -y --no-install-recommends %s\n' "${missing[*]}" >&2
    exit 2
  fi
  say "installing ${missing[*]}"
  apt_install "$sudo" "${missing[@]}" || die "apt-get could not install: ${missing[*]}"
}

# Prints the path of nvcc.
find_nvcc() {
  command -v nvcc || { [[ -x /usr/local/cuda/bin/nvcc ]] && echo /usr/local/cuda/bin/nvcc; }
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

# The architecture of the first GPU as CMake writes it: 90-real.
gpu_arch() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
  [[ $capability =~ ^[0-9]+\.[0-9]+$ ]] && echo "${capability/./}-real"
}

# configure PRESET [cmake arguments]: once, and again when the clone has moved.
configure() {
  local preset=$1 build=$pkv_root/build/$1 log
  shift
  if [[ -f $build/CMakeCache.txt ]] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$pkv_root" "$build/CMakeCache.txt"; then
    rm -rf "$build/CMakeCache.txt" "$build/CMakeFiles"
  fi
  [[ -f $build/CMakeCache.txt && -f $build/build.ninja ]] && return 0
  command -v ccache >/dev/null && set -- "$@" -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
  mkdir -p "$build"
  log=$build/configure.log
  (cd "$pkv_root" && cmake --preset "$preset" "$@") </dev/null >"$log" 2>&1 || {
    cat "$log" >&2
    rm -f "$build/CMakeCache.txt"
    die "cmake could not configure build/$preset"
  }
}

# Keeps compiler output, and of ninja's counters one line in ten (a line that rewrites itself on a terminal).
build_progress() {
  local terminal=0
  [[ -t 2 ]] && terminal=1
  awk -v terminal="$terminal" -v script="$pkv_script" '
    /^ninja: no work to do/ { next }
    match($0, /^\[[0-9]+\/[0-9]+\] /) {
      split(substr($0, 2, RLENGTH - 3), count, "/")
      if (count[1] == count[2]) { done = count[2] }
      if (terminal) { printf "\r\033[K%s: building %d of %d", script, count[1], count[2]; fflush(); next }
      share = int(10 * count[1] / count[2])
      if (share > shown) { printf "%s: built %d of %d\n", script, count[1], count[2]; fflush(); shown = share }
      next
    }
    { if (terminal) { printf "\r\033[K" } print; fflush() }
    END { if (terminal) { printf "\r\033[K" } }' >&2
}

# build PRESET TARGET...: fails with the compiler's messages on standard error.
build() {
  local preset=$1
  shift
  ninja -C "$pkv_root/build/$preset" "$@" </dev/null 2>&1 | grep --line-buffered -v '^ninja: Entering directory' | build_progress
  [[ ${PIPESTATUS[0]} == 0 ]]
}
