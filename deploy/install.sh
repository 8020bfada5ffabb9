#!/bin/sh
# Installs a device bundle: install.sh BUNDLE FOLDER
#
#   checks its checksums, unpacks it into FOLDER/<name of the bundle>, makes FOLDER/venv with what is missing of numpy and Pillow,
#   and where Python has no TensorRT onnxruntime, and points FOLDER/current to it (FOLDER/previous to what was current).
#
# The containers of this folder run it behind FROM; it does the same on a board. PYTHON: the interpreter (python3).
set -eu
[ $# = 2 ] || { echo "usage: install.sh BUNDLE FOLDER" >&2; exit 2; }
bundle=$1 folder=$2 python=${PYTHON:-python3}

if ! "$python" -c 'import ensurepip' 2>/dev/null; then # Ubuntu's and Debian's Python comes without
  apt-get update -qq && apt-get install -qq -y --no-install-recommends python3 python3-venv
fi
mkdir -p "$folder"
name=$(basename "$bundle" .bundle.tar.gz)-$(sha256sum "$bundle" | cut -c1-8)
rm -rf "$folder/.$name" && mkdir "$folder/.$name"
tar xzf "$bundle" -C "$folder/.$name" --strip-components=1
(cd "$folder/.$name" && sha256sum -c --quiet SHA256SUMS) || { echo "$bundle is damaged: copy it again" >&2; exit 1; }
rm -rf "${folder:?}/$name" && mv "$folder/.$name" "$folder/$name"

[ -x "$folder/venv/bin/python" ] || "$python" -m venv --system-site-packages "$folder/venv"
venv=$folder/venv/bin/python
need() { "$venv" -c "import $1" 2>/dev/null || "$venv" -m pip install --quiet --disable-pip-version-check --no-cache-dir "$2"; }
need numpy numpy
need PIL Pillow
"$venv" -c 'import tensorrt' 2>/dev/null || { echo "no TensorRT here: onnxruntime on the processor"; need onnxruntime onnxruntime; }

(cd "$folder/$name" && "$venv" -m runtime.infer --help >/dev/null) # it starts, and its signature holds where that is asked for
if [ -e "$folder/current" ] && [ "$(readlink "$folder/current")" != "$name" ]; then
  ln -sfn "$(readlink "$folder/current")" "$folder/previous"
fi
ln -s "$name" "$folder/.next.$$" && mv -T "$folder/.next.$$" "$folder/current" # a rename: there is always a current one
echo "installed $folder/$name"
