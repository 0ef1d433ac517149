#!/bin/sh
# Builds the C library and installs it: header, shared and static library, file for pkg-config.
#
#   crates/capi/install.sh [--prefix DIR] [--profile NAME]
#
# DIR is /usr/local by default, NAME (of a Cargo profile) release. DESTDIR is put in front of DIR for packagers.
set -eu

prefix=/usr/local
profile=release
while [ $# -gt 0 ]; do
  case "$1" in
    --prefix | --profile)
      [ $# -ge 2 ] || { echo "install.sh: $1 needs a value" >&2; exit 2; }
      case "$1" in --prefix) prefix="$2" ;; *) profile="$2" ;; esac
      shift 2
      ;;
    *)
      echo "install.sh: unknown argument \`$1\`: expected --prefix DIR or --profile NAME" >&2
      exit 2
      ;;
  esac
done
case "$prefix" in
  /*) ;;
  *) prefix="$(pwd)/$prefix" ;;
esac

cd "$(dirname "$0")"
cargo="${CARGO:-cargo}"
"$cargo" build --quiet --locked -p servecast-capi --profile "$profile"
target="$("$cargo" metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')"
case "$profile" in dev) built="$target/debug" ;; *) built="$target/$profile" ;; esac
version="$("$cargo" pkgid --locked -p servecast-capi | sed 's/.*[#@]//')"

root="${DESTDIR:-}$prefix"
lib=libservecast_router
mkdir -p "$root/include" "$root/lib/pkgconfig"
install -m 644 include/servecast_router.h "$root/include/"
install -m 644 "$built/$lib.a" "$root/lib/"
install -m 755 "$built/$lib.so" "$root/lib/$lib.so.$version"
ln -sf "$lib.so.$version" "$root/lib/$lib.so.0"
ln -sf "$lib.so.0" "$root/lib/$lib.so"
sed -e "s|@prefix@|$prefix|" -e "s|@version@|$version|" servecast-router.pc.in \
  > "$root/lib/pkgconfig/servecast-router.pc"
echo "installed servecast-router $version in $root"
