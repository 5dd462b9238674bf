"""The shop's own tests, independent of OpenKCM."""

import pytest
import shop
from shop import Customer
from sqlalchemy import func, select, update


@pytest.fixture
def session():
    with shop.begin() as opened_session:
        yield opened_session
    shop.engine.dispose()


def test_one_customer(session):
    ann = Customer(name="Ann", card="4111", email="ann@example.com", photo=b"\0\1")
    session.add(ann)
    session.commit()
    assert (ann.id, ann.card, ann.email, ann.photo) == (1, "4111", "ann@example.com", b"\0\1")
    session.expire_all()
    assert session.get(Customer, 1).card == "4111"


def test_many_customers_in_one_flush(session):
    customers = [Customer(name=f"c{n}", card=str(n), email=f"{n}@example.com") for n in range(30)]
    session.add_all(customers)
    session.commit()
    found = session.scalars(select(Customer).order_by(Customer.id)).all()
    assert [(one.name, one.card) for one in found] == [(f"c{n}", str(n)) for n in range(30)]
    assert session.scalar(select(func.count(Customer.card))) == 30


def test_a_customer_changes(session):
    session.add_all([Customer(name="Ann", card="1"), Customer(name="Bob", card="2")])
    session.commit()
    ann, bob = session.scalars(select(Customer).order_by(Customer.id))
    ann.card, bob.card, ann.email = "3", None, "new@example.com"
    session.commit()
    session.execute(update(Customer).where(Customer.id == bob.id).values(card="4"))
    session.commit()
    session.expire_all()
    assert (ann.card, bob.card, ann.email) == ("3", "4", "new@example.com")


def test_customers_are_found_by_their_address(session):
    session.add_all([Customer(name=f"c{n}", email=f"{n % 3}@example.com") for n in range(9)])
    session.commit()
    found = session.scalars(select(Customer).where(Customer.email == "1@example.com")).all()
    assert [one.name for one in found] == ["c1", "c4", "c7"]
    query = select(Customer.name).where(Customer.email.in_(["0@example.com", "none"])).order_by(Customer.id)
    assert session.scalars(query).all() == ["c0", "c3", "c6"]
