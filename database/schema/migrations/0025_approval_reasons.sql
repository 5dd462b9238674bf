-- Why a person requests an action, and why another one approves or declines it. Null in requests of older releases,
-- and in those of their dashboards that still run during an upgrade.
alter table okcm.approval add column request_reason text check (length(request_reason) between 1 and 500);
alter table okcm.approval_vote add column reason text check (length(reason) between 1 and 500);
grant insert (request_reason) on okcm.approval to okcm_dashboard;
grant insert (reason) on okcm.approval_vote to okcm_dashboard;
