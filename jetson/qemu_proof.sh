#!/bin/sh
# Test the client on the Nano's processor without a board: run setup.sh in a Debian arm64 root under qemu, and train
# configs/jetson-nano.yaml in a FEDn network on this machine: a round of all 14 layers, and two of 4, so that the server
# reports the outcome of the second.
#
#   sudo env "PATH=$PATH" sh jetson/qemu_proof.sh FOLDER
#
# Needs root, 4 GB in FOLDER, fedn-partial with its extra 'local' on the PATH, and Debian's packages:
# apt-get install debootstrap qemu-user-static binutils. A second run reuses the root.
set -eu

IMAGES=40
QEMU=/usr/bin/qemu-aarch64-static
export QEMU_CPU=cortex-a57  # the Nano's; newer instructions are illegal

[ $# = 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
# Mounts in a namespace of its own end with this script.
[ "${IN_NAMESPACE:-}" ] || exec env IN_NAMESPACE=1 unshare --mount sh "$0" "$@"

checkout=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
root=$folder/root
python=$(dirname "$(command -v fedn-partial)")/python
for tool in debootstrap readelf unshare "$QEMU"; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: see the first lines of $0" >&2; exit 1; }
done

enter() {  # replaces the calling shell
    exec chroot "$root" env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root QEMU_CPU="$QEMU_CPU" \
        SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$@"
}

inside() { (enter "$@"); }

as_client() {  # the service's account and command, with the wrapper that sets OPENBLAS_CORETYPE
    enter setpriv --reuid fedn-partial --regid fedn-partial --clear-groups env HOME=/var/lib/fedn-partial \
        /usr/local/bin/fedn-partial "$@"
}

register_qemu() {
    table=/proc/sys/fs/binfmt_misc
    [ -e $table/register ] || mount -t binfmt_misc none $table
    # Flag F opens qemu now, as its path does not exist inside the root.
    [ -e $table/qemu-aarch64 ] || printf '%s' ":qemu-aarch64:M::\
\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:$QEMU:OCF" \
        > $table/register
}

make_root() {
    if [ ! -x "$root/usr/bin/python3" ] || [ -e "$root/debootstrap" ]; then
        rm -rf "$root"
        debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,python3-venv,ca-certificates \
            bookworm "$root" > "$folder/debootstrap.log"
        chroot "$root" /debootstrap/debootstrap --second-stage >> "$folder/debootstrap.log"
    fi
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    # Links in the root may point to this machine's files: replace them.
    cp -L --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
    cp -L --remove-destination /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    # Bookworm has glibc 2.36. Report the Nano's 2.27 to uv, so that it selects the Nano's wheels.
    printf '%s\n' 'import os' 'os.confstr = lambda name: "glibc 2.27"' > "$folder/sitecustomize.py"
    cp --remove-destination "$folder/sitecustomize.py" "$root/usr/lib/python3.11/sitecustomize.py"
    mkdir -p "$root/src"
    mount --bind "$checkout" "$root/src"
}

highest() {  # highest version of a library that the installed binaries require
    find "$root/opt/fedn-partial/venv/lib" -name '*.so*' -type f -exec readelf --version-info {} + 2>/dev/null |
        grep -oE "\b$1_[0-9.]+" | sort -uV | tail -n 1
}

write_device() {  # client.yaml for the controller at URL $1, and random images in CIFAR-10's shape
    cat > "$root/var/lib/fedn-partial/client.yaml" <<END
name: nano
api_url: $1
fedn_partial: {data: data}
END
    "$python" - "$root/var/lib/fedn-partial/data" $IMAGES <<'END'
import sys
import numpy as np
from fedn_partial.data.shard import Shard, write_shard

random, count = np.random.default_rng(1), int(sys.argv[2])
x = random.integers(0, 256, (count + 8, 32, 32, 3), dtype=np.uint8)
y = (np.arange(count + 8) % 10).astype(np.int32)
write_shard(sys.argv[1], Shard(x[:count], y[:count], x[count:], y[count:], tuple("abcdefghij")), "random")
END
}

wait_for_client() {
    "$python" - "$1" "$client" <<'END'
import sys, time
import psutil
from fedn_partial.client.fedn_api.api import Api

api, client = Api(sys.argv[1]), psutil.Process(int(sys.argv[2]))
for _ in range(600):
    if api.get("clients/", params={"status": "online"})["result"]:
        sys.exit()
    if client.status() == psutil.STATUS_ZOMBIE:
        sys.exit("the client has ended; see client.log")
    time.sleep(1)
sys.exit("the client did not connect within 10 minutes; see client.log")
END
}

show_rows() {
    "$python" - "$folder"/runs/*/rounds.jsonl <<'END'
import json, sys

COLUMNS = ("round", "client", "outcome", "layers", "num_examples", "upload_bytes", "train_seconds", "train_loss", "loss")
for line in open(sys.argv[1]):
    row = json.loads(line)
    print(json.dumps({key: row[key] for key in COLUMNS}))
END
}

clean_up() {
    [ -z "${client:-}" ] || kill "$client" 2>/dev/null || true
    fedn-partial network down --folder "$folder/network" >/dev/null || true
}

register_qemu
make_root
echo "== device: $(inside uname -sm), QEMU_CPU=$QEMU_CPU, $($QEMU --version | head -n 1)"
echo "== jetson/setup.sh"
inside sh /src/jetson/setup.sh
echo "== jetson/setup.sh, second run"
inside sh /src/jetson/setup.sh | tail -n 1
echo "== highest versions that the binaries require: $(highest GLIBC), $(highest GLIBCXX), $(highest CXXABI)"

rm -rf "$folder/network" "$folder/runs"
trap clean_up EXIT
fedn-partial network up --folder "$folder/network"
url=$(fedn-partial network status --folder "$folder/network" | sed -n 's/^controller at //p')
sed -e 's/^  rounds: .*/  rounds: 3/' -e 's/^  warmup_rounds: .*/  warmup_rounds: 1/' -e 's/^  round_timeout: .*/  round_timeout: 3600/' \
    "$checkout/configs/jetson-nano.yaml" > "$folder/case.yaml"
fedn-partial package build -o "$folder/package.tgz"
fedn-partial package upload "$folder/package.tgz" --api-url "$url"
fedn-partial seed build "$folder/case.yaml" -o "$folder/seed.npz"
fedn-partial seed upload "$folder/seed.npz" --api-url "$url"

write_device "$url"
inside chown -R fedn-partial: /var/lib/fedn-partial
echo "== fedn-partial doctor"
(as_client doctor --config /var/lib/fedn-partial/client.yaml) || echo "exit code $?"
echo "== client"
as_client client start --config /var/lib/fedn-partial/client.yaml > "$folder/client.log" 2>&1 &
client=$!
wait_for_client "$url"
inside /opt/fedn-partial/venv/bin/python -c "import importlib.metadata as m, platform, sys
print(platform.machine(), 'Python', platform.python_version(), *(f'{n} {m.version(n)}' for n in
      ('fedn-partial', 'fedn', 'tensorflow', 'keras', 'numpy', 'h5py', 'grpcio')))"
tr '\0' ' ' < "/proc/$client/cmdline"
echo
echo "== session"
fedn-partial session start "$folder/case.yaml" --api-url "$url" --runs "$folder/runs"
echo "== rows"
show_rows
