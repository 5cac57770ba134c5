#!/bin/sh
# Install a fedn-partial client on a Jetson Nano with JetPack 4.6 (Ubuntu 18.04, glibc 2.27, Python 3.6).
#
#   sh jetson/setup.sh --dry-run    print the steps without changing anything; on any machine, without root
#   sudo sh jetson/setup.sh         install; steps that are already done are skipped
#
# All packages are wheels for aarch64; nothing is compiled. See docs/JETSON.md.
set -eu

PYTHON=3.11
PROGRAMS=/opt/fedn-partial   # uv, Python and the package, owned by root
STATE=/var/lib/fedn-partial  # client.yaml, the shard, and the client's files
ACCOUNT=fedn-partial
COMMAND=/usr/local/bin/fedn-partial
UNIT=/etc/systemd/system/fedn-partial.service

DISK_MB=4000    # the installation takes 2 GB, its downloads as much for a while
MEMORY_MB=2500  # a Nano 2GB has 1,979 MiB, and JetPack's zram adds half of that: less means that zram is off
SMOKE="import numpy, tensorflow
x = numpy.ones((64, 64), numpy.float32)
assert (x @ x)[0, 0] == 64 and tensorflow.matmul(x, x)[0, 0] == 64"

checkout=$(cd "$(dirname "$0")/.." && pwd)
venv=$PROGRAMS/venv
uv=$PROGRAMS/bootstrap/bin/uv
dry_run=no
changes=0
advice=

log() { printf '%s\n' "$*"; }

# fail WHAT WAY_OUT
fail() {
    if [ "$dry_run" = yes ]; then
        log "   a real run would stop here: $1"
        log "   remedy: $2"
        return
    fi
    log "setup.sh: $1" >&2
    log "remedy: $2" >&2
    exit 1
}

# run WAY_OUT COMMAND [ARGUMENT...]
run() {
    way_out=$1
    shift
    changes=$((changes + 1))
    if [ "$dry_run" = yes ]; then
        log "   would run: $*"
        return
    fi
    log "   $*"
    "$@" || fail "this failed: $*" "$way_out; then run setup.sh again to resume"
}

# put MODE SOURCE TARGET: install a file unless it is up to date
put() {
    if cmp -s "$2" "$3"; then
        log "   $3 is up to date"
    else
        run "free disk space, and check that $(dirname "$3") is writable" install -D -m "$1" "$2" "$3"
    fi
}

check_machine() {
    log "1. this machine"
    machine=$(uname -m)
    [ "$machine" = aarch64 ] || fail "this machine is $machine, not aarch64" \
        "run this on the Nano; on other machines install the client with 'pip install .'"
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
    [ "$(printf '%s\n2.27\n' "${glibc:-0}" | sort -V | head -n 1)" = 2.27 ] || fail \
        "glibc is ${glibc:-unknown}, but the wheels need 2.27" "flash JetPack 4.6, which has 2.27"
    [ "$(id -u)" = 0 ] || fail "this user may not install packages" "sudo sh $0"
    [ "$(date +%Y)" -ge 2025 ] || fail "the clock is wrong ($(date)), so that no server's certificate is valid" \
        "sudo timedatectl set-ntp true, then wait until 'timedatectl' shows a synchronized clock"
    folder=$PROGRAMS
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    free=$(df -Pm "$folder" | awk 'NR == 2 {print $4}')
    if [ ! -e "$PROGRAMS/installed" ] && [ "$free" -lt "$DISK_MB" ]; then
        fail "$folder has $free MB free, and $DISK_MB are needed" \
            "free disk space ('sudo apt-get clean'), or use a larger card"
    fi
    log "   $machine, glibc ${glibc:-unknown}, $free MB free for $PROGRAMS"
}

check_memory() {
    log "2. memory"
    memory=$(awk '/^MemTotal/ {print int($2 / 1000)}' /proc/meminfo)
    swap=$(awk '/^SwapTotal/ {print int($2 / 1000)}' /proc/meminfo)
    log "   $memory MB of memory, $swap MB of swap"
    if [ $((memory + swap)) -lt "$MEMORY_MB" ]; then
        advice="memory and swap are $((memory + swap)) MB together. Below $MEMORY_MB MB little is left for training \
beside JetPack's desktop. setup.sh does not change this. Options:
  - enable JetPack's compressed swap: sudo systemctl enable --now nvzramconfig
  - add a swap file, which wears the card: sudo fallocate -l 2G /swapfile && sudo chmod 600 /swapfile && \
sudo mkswap /swapfile && sudo swapon /swapfile, and '/swapfile none swap sw 0 0' into /etc/fstab
  - disable the desktop, which takes about 400 MB: sudo systemctl set-default multi-user.target && sudo reboot"
        log "   $advice"
    fi
}

install_uv() {
    log "3. uv, which installs Python"
    wanted="uv $(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$checkout/jetson/bootstrap-uv.txt")"
    if [ -x "$uv" ] && [ "$("$uv" --version | cut -d' ' -f1,2)" = "$wanted" ]; then
        log "   $wanted is installed"
        return
    fi
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        run "sudo apt-get update; python3-venv is in Ubuntu's 'universe'" apt-get install -y python3-venv
    fi
    run "remove $PROGRAMS/bootstrap" python3 -m venv --clear "$PROGRAMS/bootstrap"
    pip=$PROGRAMS/bootstrap/bin/pip
    network="check that this device reaches PyPI (name server, proxy, clock)"
    run "$network" "$pip" install --quiet --require-hashes -r "$checkout/jetson/bootstrap-pip.txt"
    # uv's wheel requires Python 3.8 for its Python module, which is not used here.
    run "$network" "$pip" install --quiet --no-deps --ignore-requires-python --only-binary :all: --require-hashes \
        -r "$checkout/jetson/bootstrap-uv.txt"
}

source_files() {
    tar -C "$checkout" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
        --exclude=.git --exclude=.venv --exclude='.*_cache' --exclude=__pycache__ --exclude='*.egg-info' --exclude=.state \
        --exclude=./build --exclude=./dist --exclude=./runs --exclude=./fedn-network --exclude=./docs --exclude=./tests -cf - .
}

install_package() {
    log "4. Python $PYTHON and fedn-partial, in $venv"
    wanted="Python $PYTHON, source $(source_files | sha256sum | cut -d' ' -f1)"
    if [ "$(cat "$PROGRAMS/installed" 2>/dev/null)" = "$wanted" ]; then
        log "   this checkout is installed"
        return
    fi
    export UV_PYTHON_INSTALL_DIR="$PROGRAMS/python" UV_NO_CACHE=1
    if [ ! -x "$venv/bin/python" ]; then
        run "check that this device reaches github.com, from which uv downloads Python" \
            "$uv" venv --clear --python "$PYTHON" "$venv"
    fi
    # Built from a copy, as the checkout may belong to another user than root.
    work=$PROGRAMS/build
    network="check that this device reaches PyPI (name server, proxy, clock)"
    run "free disk space" copy_checkout_to "$work/source"
    run "$network" "$uv" build --quiet --wheel --python "$venv/bin/python" --out-dir "$work" \
        --build-constraints "$work/source/constraints.txt" "$work/source"
    # Compiled to bytecode now: the client may not write there, and would compile at every start.
    run "$network; a package without a wheel for this device is named above" \
        "$uv" pip install --quiet --python "$venv/bin/python" --only-binary :all: --compile-bytecode \
        --constraints "$work/source/constraints.txt" --reinstall-package fedn-partial "$work"/*.whl
    run "see 'Illegal instruction' in docs/JETSON.md" try_numpy_and_tensorflow
    run "free disk space" record_installation "$wanted"
}

copy_checkout_to() {
    rm -rf "$work"
    mkdir -p "$1"
    source_files | tar -C "$1" -xf -
}

try_numpy_and_tensorflow() {
    OPENBLAS_CORETYPE=ARMV8 TF_CPP_MIN_LOG_LEVEL=2 "$venv/bin/python" -c "$SMOKE"
}

record_installation() {
    rm -rf "$work"
    echo "$1" > "$PROGRAMS/installed"
}

install_service() {
    log "5. the service"
    put 755 "$checkout/jetson/fedn-partial" "$COMMAND"
    if id "$ACCOUNT" >/dev/null 2>&1; then
        log "   the account $ACCOUNT exists"
    else
        run "see 'man useradd'" useradd --system --user-group --home-dir "$STATE" --shell /usr/sbin/nologin "$ACCOUNT"
    fi
    if [ -d "$STATE" ]; then
        log "   $STATE exists"
    else
        run "free disk space" install -d -m 750 -o "$ACCOUNT" -g "$ACCOUNT" "$STATE"
    fi
    if [ -e "$STATE/client.yaml" ]; then
        log "   $STATE/client.yaml is kept"
    else  # readable for root and the client only, as it may contain a token
        run "free disk space" install -m 640 -o root -g "$ACCOUNT" \
            "$checkout/configs/client.yaml" "$STATE/client.yaml"
    fi
    before=$changes
    put 644 "$checkout/jetson/fedn-partial.service" "$UNIT"
    if [ ! -d /run/systemd/system ]; then
        log "   systemd does not run here: the service is not enabled"
    elif [ "$changes" -gt "$before" ] || ! systemctl --quiet is-enabled fedn-partial; then
        run "see 'systemctl status'" systemctl daemon-reload
        run "see 'systemctl status fedn-partial'" systemctl enable fedn-partial
    fi
}

for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=yes ;;
        -h | --help)
            sed -n '2,7s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        *)
            log "setup.sh: unknown option '$argument'; use --dry-run or --help" >&2
            exit 2
            ;;
    esac
done

check_machine
check_memory
install_uv
install_package
install_service

log ""
if [ "$changes" = 0 ]; then
    log "Nothing to do."
elif [ "$dry_run" = yes ]; then
    log "Dry run: nothing was changed. A real run would take these $changes steps."
else
    log "Done: $changes steps. Next:
  1. fill in $STATE/client.yaml (name, api_url, token) and copy the shard to $STATE/data
  2. check this device: sudo -u $ACCOUNT fedn-partial doctor --config $STATE/client.yaml
  3. start the client: sudo systemctl restart fedn-partial; its log: journalctl -fu fedn-partial"
fi
[ -z "$advice" ] || log "Recommendation: $advice"
