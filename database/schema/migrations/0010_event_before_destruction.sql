-- An event refers to its tenant's row. Its insertion therefore waits for a destruction that begins, which locks that row
-- against references, and a destruction that begins waits for the event: one of the two sees the other.
alter table okcm.marketplace_event add foreign key (tenant_id) references okcm.tenant;
