-- The states 5 and 6 exclude destroyed objects from the count of what a key version encrypts. Destroyed objects of types
-- without a state (opaque objects and templates) had the state 0 and prevented the destruction of their version.
-- The owner changes the rows of all tenants, which row security otherwise permits to no role.
alter table okcm.managed_object no force row level security;
update okcm.managed_object set state = 5 where state = 0 and material is null;
alter table okcm.managed_object force row level security;
