-- Takes what is left of erased users out of Postgres' files: psql "$ADMIN_DATABASE_URL" -f wipe-erased.sql
--
-- An erasure deletes the rows at once. Until their room is written over, which plain VACUUM does not promise, their bytes
-- stay in the tables' files; what ANALYZE has sampled stays in pg_statistic; and the write-ahead log has all of it until
-- its segments go. Here the tables are rewritten and the log is moved on.
--
-- As a superuser, in psql or the like: each statement is a transaction of its own. A table is locked while it is rewritten;
-- jobs wait for it meanwhile and none is lost, and logins go on.
--
-- The old segments of the log are kept and used again unless wal_recycle = off; archives and backups have to end by
-- themselves.
VACUUM (FULL, ANALYZE) identities;
VACUUM (FULL, ANALYZE) users;
VACUUM (FULL, ANALYZE) webhook_deliveries;
VACUUM FULL pg_catalog.pg_statistic;
SELECT pg_switch_wal();
CHECKPOINT;
