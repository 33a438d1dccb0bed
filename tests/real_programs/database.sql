-- A database in memory that is filled, changed all over and checked. Prints the same for the same
-- number of :rows.
PRAGMA cache_size = -64000;
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city INTEGER, note TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers,
                     amount INTEGER NOT NULL, item TEXT);

INSERT INTO customers
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT :rows)
  SELECT i, printf('customer %x', i * 2654435761 % 4294967296), i * 7919 % 1000,
         substr(replace(hex(zeroblob(40)), '0', printf('%x', i * 40503 % 65536)), 1, 60 + i % 90)
  FROM n;
INSERT INTO orders
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT :rows)
  SELECT i, 1 + i * 6700417 % :rows, i * 104729 % 10007, printf('item %d', i % 977)
  FROM n;
CREATE INDEX orders_by_customer ON orders(customer, amount);
CREATE INDEX customers_by_name ON customers(name);
SELECT 'filled', count(*), sum(amount), sum(customer) FROM orders;

UPDATE customers SET note = note || name WHERE id % 3 = 0;
DELETE FROM orders WHERE amount % 10 = 3;
UPDATE orders SET amount = amount + 1 WHERE customer % 5 = 1;
SELECT 'changed', count(*), sum(amount), total(length(item)) FROM orders;
SELECT 'joined', count(*), sum(amount * city), sum(length(note))
  FROM orders JOIN customers ON customers.id = orders.customer;
SELECT 'looked up', count(*), sum(o.amount)
  FROM customers c JOIN orders o ON o.customer = c.id WHERE c.name BETWEEN 'customer 2' AND 'customer 6';
SELECT 'grouped', count(*), max(s), min(s)
  FROM (SELECT city, sum(amount) AS s FROM orders JOIN customers ON customers.id = customer GROUP BY city);
WITH t AS (SELECT row_number() OVER (ORDER BY name DESC) AS place, id FROM customers)
  SELECT 'ordered', sum(place * (id % 1000)) FROM t;
SELECT 'first names', group_concat(name) FROM (SELECT name FROM customers ORDER BY name LIMIT 5);

BEGIN;
DELETE FROM customers WHERE id % 2 = 0;
UPDATE orders SET item = upper(item);
ROLLBACK;
SELECT 'rolled back', count(*), sum(length(note)) FROM customers;
VACUUM;
SELECT 'vacuumed', count(*), sum(length(note)), sum(id * (city + 1) % 65521) FROM customers;
SELECT 'integrity ' || integrity_check FROM pragma_integrity_check;
