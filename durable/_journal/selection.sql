-- Pieces of the statements that list and count runs; selection.py puts them together.
-- A statement is made of: rows_from | count_from, branches joined by `also` and followed by
-- an order, joined_runs, conditions, rows_newest | rows_oldest.
-- A branch finds (created_at, pk) between two such positions, in an index.

-- name: by_status
SELECT created_at, pk FROM runs INDEXED BY runs_by_status
WHERE status = ? AND (created_at, pk) > (?, ?) AND (created_at, pk) < (?, ?)

-- name: by_workflow
SELECT created_at, pk FROM runs INDEXED BY runs_by_workflow
WHERE workflow = ? AND status = ? AND (created_at, pk) > (?, ?) AND (created_at, pk) < (?, ?)

-- name: by_parent
SELECT created_at, pk FROM runs INDEXED BY runs_by_parent
WHERE parent_id = ? AND (created_at, pk) > (?, ?) AND (created_at, pk) < (?, ?)

-- name: by_root
SELECT created_at, pk FROM runs INDEXED BY runs_by_root
WHERE root_id = ? AND (created_at, pk) > (?, ?) AND (created_at, pk) < (?, ?)

-- name: by_id
SELECT created_at, pk FROM runs
WHERE run_id = ? AND root_id IS NULL AND (created_at, pk) > (?, ?) AND (created_at, pk) < (?, ?)

-- name: by_attribute
SELECT created_at, run AS pk FROM attributes
WHERE key = ? AND value = ? AND (created_at, run) > (?, ?) AND (created_at, run) < (?, ?)

-- name: also
UNION ALL

-- name: newest
ORDER BY created_at DESC, pk DESC LIMIT ? OFFSET ?

-- name: oldest
ORDER BY created_at, pk LIMIT ? OFFSET ?

-- The columns of a run come in the order of records.RunRow, which is the table's.
-- name: rows_from
SELECT found.created_at, found.pk, runs.* FROM (

-- name: count_from
SELECT count(*) FROM (

-- name: end_from
)

-- name: joined_runs
) AS found CROSS JOIN runs ON runs.pk = found.pk WHERE TRUE

-- name: has_status
AND runs.status IN (SELECT value FROM json_each(?))

-- name: has_workflow
AND runs.workflow = ?

-- name: has_parent
AND runs.parent_id = ?

-- name: has_root
AND coalesce(runs.root_id, runs.run_id) = ?

-- name: has_attribute
AND EXISTS (
    SELECT 1 FROM attributes
    WHERE key = ? AND value = ? AND created_at = runs.created_at AND run = runs.pk)

-- name: rows_newest
ORDER BY found.created_at DESC, found.pk DESC LIMIT ?

-- name: rows_oldest
ORDER BY found.created_at, found.pk LIMIT ?

-- name: explain
EXPLAIN QUERY PLAN
