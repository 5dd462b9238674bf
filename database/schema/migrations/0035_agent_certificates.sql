-- An agent could report an end of its certificate that no reader can represent in UTC, such as the last hour of 9999 in
-- a western time zone. Then all agents of its tenant were unreadable. Such a row is deleted: the next heartbeat of a
-- correct agent writes it again. Without `no force` row security would hide the rows from the owner.
alter table okcm.agent no force row level security;
delete from okcm.agent where certificate_not_after not between '2000-01-01 00:00:00+00' and '2200-01-01 00:00:00+00';
alter table okcm.agent force row level security;
alter table okcm.agent add constraint agent_certificate_not_after_check
    check (certificate_not_after between '2000-01-01 00:00:00+00' and '2200-01-01 00:00:00+00') not valid;
alter table okcm.agent validate constraint agent_certificate_not_after_check;
