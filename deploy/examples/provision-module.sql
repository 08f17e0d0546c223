-- The table that provision-module.mjs writes to. Yours will have more columns.
create table members (
  id bigint generated always as identity primary key,
  appid text not null,
  openid text not null,
  unionid text,
  last_seen_at timestamptz not null,
  unique (appid, openid)
);
