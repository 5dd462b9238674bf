"""A shop's customers, in SQLAlchemy: an application without any knowledge of OpenKCM."""

import os

from sqlalchemy import LargeBinary, String, Text, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "shop_customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    card: Mapped[str | None] = mapped_column(Text, comment="openkcm: encrypt")
    email: Mapped[str | None] = mapped_column(Text, comment="openkcm: encrypt deterministic")
    photo: Mapped[bytes | None] = mapped_column(LargeBinary, comment="openkcm: encrypt")


engine = create_engine(os.environ["SHOP_DATABASE"])


def begin():
    Base.metadata.create_all(engine)
    with engine.begin() as conn:
        conn.execute(text("TRUNCATE shop_customers RESTART IDENTITY"))
    return Session(engine)
