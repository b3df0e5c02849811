// Package accounts keeps who may log in: names, addresses, password hashes and
// the id each account got, in SQL. [Store] is the table, [Hasher] the
// passwords, [Registrar] the steps by which an account comes to be.
//
// Registering crosses two systems, so it is made of steps that can be
// repeated: the row is inserted as pending, with a random account key and a
// range; the range creates the user, the same one again for the same key; the
// row gets the id and becomes active. What broke off in between is finished
// by the sweeper, by the next login, or by registering again.
//
// The SQL is the common subset of SQLite and MySQL; dialect.go holds what
// differs.
package accounts
