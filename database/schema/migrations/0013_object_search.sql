-- What a search of managed objects compares, so that it decodes no attributes: dates of state changes, usage mask, two
-- flags, and a hash for each attribute and each field of one. `search_version` is the version of the hashes' form, 0 for
-- an object that has none yet. Row security prevents an index over an array (its operators are not leakproof), but a
-- service has at most some thousand objects, and comparing their arrays takes a few milliseconds.
alter table okcm.managed_object
    add column search_version smallint not null default 0,
    add column active_at      bigint,
    add column inactive_at    bigint,
    add column usage_mask     integer not null default 0,
    add column archived       boolean not null default false,
    add column fresh          boolean not null default false,
    add column terms          bigint[] not null default '{}' check (cardinality(terms) <= 4096);
create index managed_object_unsearched on okcm.managed_object (tenant_id, service, object_id)
    where search_version = 0 and material is not null;

grant insert (search_version, active_at, inactive_at, usage_mask, archived, fresh, terms),
    update (search_version, active_at, inactive_at, usage_mask, archived, fresh, terms)
    on okcm.managed_object to okcm_crypto;

-- As before, but filling in what a search compares changes nothing that a cache holds.
drop trigger announce_update on okcm.managed_object;
create trigger announce_update after update on okcm.managed_object for each row
    when ((old.key_version = new.key_version and old.search_version = new.search_version)
          or old.state <> new.state or old.names <> new.names
          or old.attributes <> new.attributes or old.material is null or new.material is null)
    execute function okcm.announce_change('/objects');
