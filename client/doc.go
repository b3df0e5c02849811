// Package client is the Go SDK: everything that speaks to Waggle as a person
// does uses it.
//
//	c, err := client.New(client.Config{Server: "127.0.0.1:7443", Token: token, Device: device,
//		Subscribe: true, OnUpdate: func(u client.Update) { fmt.Println(u.Event.GetText().GetText()) }})
//	go c.Run(ctx)
//	sent, err := c.Send(ctx, "d/4096/8192", "hello")
//
// [Client.Run] keeps one connection: QUIC, or TCP with TLS where UDP does not
// pass. It resumes after every loss from the last update handed out, so that
// OnUpdate sees each update once and in order.
//
// Sends go through an outbox. A message gets its id once, is repeated under
// that id until the server has answered, and names its unanswered predecessor
// in the thread, so that whatever breaks in between, it is stored once and in
// order.
package client
