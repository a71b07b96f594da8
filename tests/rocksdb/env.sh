# To be sourced: builds RocksDB, the C++ library, below the cargo target folder, and points cargo to it. Builds only once.
#
# The crate `librocksdb-sys` can build RocksDB itself, but takes several times as long: it compiles 343 files one by one,
# and most of that time goes into the same headers. This script compiles a few files that include all others. The
# library is the same.
#
# The crate parses RocksDB's header with libclang, which comes from PyPI if the system has none.

rocksdb_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
rocksdb_folder="${CARGO_TARGET_DIR:-$rocksdb_root/target}/rocksdb"
mkdir -p "$rocksdb_folder"
rocksdb_folder=$(cd "$rocksdb_folder" && pwd)

# rocksdb_crate NAME: the source folder of a dependency.
rocksdb_crate() {
  cargo metadata --locked --format-version 1 --features rocksdb --manifest-path "$rocksdb_root/Cargo.toml" |
    grep -o '"manifest_path":"[^"]*/'"$1"'-[0-9][^"]*"' | head -n 1 | sed 's/^"manifest_path":"//; s/\/Cargo.toml"$//'
}

rocksdb_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return
  if compgen -G "/usr/lib/llvm-*/lib/libclang*.so*" | grep -qv cpp || ldconfig -p 2>/dev/null | grep -q 'libclang[-.0-9]*\.so'; then
    return
  fi
  if [ ! -f "$rocksdb_folder/libclang/installed" ]; then
    echo "installing libclang from PyPI"
    rm -rf "$rocksdb_folder/libclang"
    python3 -m venv "$rocksdb_folder/libclang"
    "$rocksdb_folder/libclang/bin/pip" install --quiet --disable-pip-version-check libclang==18.1.1
    touch "$rocksdb_folder/libclang/installed"
  fi
  LIBCLANG_PATH=$(dirname "$(compgen -G "$rocksdb_folder/libclang/lib/python3*/site-packages/clang/native/libclang.so")")
  # The package has no builtin compiler headers, so the C compiler's serve.
  BINDGEN_EXTRA_CLANG_ARGS="-I$(cc -print-file-name=include)"
  export LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS
}

rocksdb_library() {
  local sources=$1 folder=$2 parts=8 part files
  echo "building RocksDB, once: some minutes"
  rm -rf "$folder"
  mkdir -p "$folder"
  # The list has one file per line; the crate ships its own file for the version.
  files=$(grep -o '[^ ]*\.cc' "$sources/rocksdb_lib_sources.txt" | sed 's#^util/build_version.cc$#build_version.cc#')
  local lines_per_part=$(( ($(wc -l <<<"$files") + parts - 1) / parts ))
  split -d -l "$lines_per_part" --additional-suffix=.list - "$folder/part" <<<"$files"
  for part in "$folder"/part*.list; do
    sed 's/.*/#include "&"/' "$part" >"${part%.list}.cc"
  done
  local flags=(
    -O2 -fPIC -ffunction-sections -fdata-sections -std=c++20 -include cstdint -w
    -I "$sources/rocksdb/include" -I "$sources/rocksdb" -I "$sources"
    -I "$(rocksdb_crate zstd-sys)/zstd/lib" -I "$(rocksdb_crate lz4-sys)/liblz4/lib"
    -DLZ4=1 -DZSTD=1 -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX -DROCKSDB_PLATFORM_POSIX
    -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT
    -DROCKSDB_RANGESYNC_PRESENT
  )
  printf '%s\0' "$folder"/part*.cc |
    xargs -0 -P "$(nproc)" -I{} "${CXX:-c++}" "${flags[@]}" -c {} -o {}.o
  ar rcs "$folder/librocksdb.a" "$folder"/part*.o
  rm "$folder"/part*
}

rocksdb_env() {
  local sources folder
  rocksdb_libclang
  # On other systems the crate builds RocksDB itself.
  [ "$(uname -s)" = Linux ] || return 0
  command -v "${CXX:-c++}" >/dev/null || { echo "a C++ compiler is needed (Debian: apt-get install g++)" >&2; return 1; }
  sources=$(rocksdb_crate librocksdb-sys)
  [ -n "$sources" ] || { echo "cannot find the sources of librocksdb-sys" >&2; return 1; }
  folder="$rocksdb_folder/$(basename "$sources")"
  # The archive is written last, so that a broken-off build does not count.
  [ -f "$folder/librocksdb.a" ] || rocksdb_library "$sources" "$folder"
  export ROCKSDB_LIB_DIR="$folder" ROCKSDB_STATIC=1
}

rocksdb_env
