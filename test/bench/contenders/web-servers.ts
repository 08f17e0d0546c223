/** Contenders that are web servers of the system: their configuration, and how they are started. */
import { existsSync, writeFileSync } from 'node:fs'
import type { Launch } from '../processes.ts'
import { scratchFile } from '../processes.ts'

const NGINX = '/usr/sbin/nginx'
const CONNECTIONS_MAX = 1_024
/** As many as the load has requests under way, so that none waits for a process. */
const PHP_PROCESSES = 32

type Commands = Pick<Launch, 'command'>[]

export const hasNginx = existsSync(NGINX)
/** Debian names the program after its version. */
const php = ['8.4', '8.3', '8.2', '8.1'].map((version) => `/usr/sbin/php-fpm${version}`).find(existsSync)
export const hasPhp = hasNginx && php !== undefined

/** The classic tutorial's page behind nginx, in processes that stay. */
export function phpCommands(env: Readonly<Record<string, string>>): Commands {
  const socket = scratchFile('php.sock')
  const page = new URL('php-login.php', import.meta.url).pathname
  const parameters = ['WECHAT_URL', 'WECHAT_APPID', 'WECHAT_SECRET'].map(
    (name) => `fastcgi_param ${name} "${env[name]}";`,
  )
  const pool = written(
    'php-fpm.conf',
    `[global]
error_log = ${scratchFile('php-fpm.log')}
daemonize = no
[www]
user = ${userOfFiles()}
group = ${userOfFiles()}
listen = ${socket}
listen.mode = 0666
pm = static
pm.max_children = ${PHP_PROCESSES}
php_admin_value[opcache.enable] = 1
php_admin_value[opcache.validate_timestamps] = 0
`,
  )
  const nginx = nginxConfig(
    'php',
    `upstream php { server unix:${socket}; keepalive ${PHP_PROCESSES}; }
server {
  listen 127.0.0.1:${env['PORT']};
  location = /livez { return 200 "ok"; }
  location = /login {
    fastcgi_pass php;
    fastcgi_keep_conn on;
    fastcgi_param SCRIPT_FILENAME ${page};
    fastcgi_param REQUEST_METHOD $request_method;
    fastcgi_param CONTENT_TYPE $content_type;
    fastcgi_param CONTENT_LENGTH $content_length;
    ${parameters.join('\n    ')}
  }
}`,
  )
  return [
    { command: [php ?? '', '--fpm-config', pool, '--nodaemonize', '--allow-to-run-as-root'] },
    { command: [NGINX, '-c', nginx] },
  ]
}

/** What nginx alone takes to ask somebody before it answers: here somebody who always says yes. */
export function authRequestCommands(env: Readonly<Record<string, string>>): Commands {
  const socket = scratchFile('yes.sock')
  const file = written('answer.txt', 'ok')
  const nginx = nginxConfig(
    'auth-request',
    `upstream yes { server unix:${socket}; keepalive 32; }
server {
  listen unix:${socket};
  location / { return 200; }
}
server {
  listen 127.0.0.1:${env['PORT']};
  location = /livez { return 200 "ok"; }
  location = /yes {
    internal;
    proxy_pass http://yes;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_pass_request_body off;
  }
  location = /auth {
    auth_request /yes;
    alias ${file};
  }
}`,
  )
  return [{ command: [NGINX, '-c', nginx] }]
}

function nginxConfig(name: string, servers: string): string {
  return written(
    `nginx-${name}.conf`,
    `daemon off;
user root;
worker_processes 1;
pid ${scratchFile(`nginx-${name}.pid`)};
error_log ${scratchFile(`nginx-${name}.log`)};
events { worker_connections ${CONNECTIONS_MAX}; }
http {
  access_log off;
  keepalive_requests 1000000;
  client_body_temp_path ${scratchFile(`nginx-${name}-body`)};
  fastcgi_temp_path ${scratchFile(`nginx-${name}-fastcgi`)};
  proxy_temp_path ${scratchFile(`nginx-${name}-proxy`)};
  ${servers}
}
`,
  )
}

/** Who runs the bench: the pages lie where only they may be able to read. */
function userOfFiles(): string {
  return process.getuid?.() === 0 ? 'root' : (process.env['USER'] ?? 'nobody')
}

function written(name: string, content: string): string {
  const path = scratchFile(name)
  writeFileSync(path, content)
  return path
}
