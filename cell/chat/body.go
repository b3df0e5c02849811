package chat

import (
	"math"
	"unicode/utf8"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// checkMessage refuses what can be no message.
func checkMessage(m *clientpb.SendMessage) *proto.Error {
	if _, err := proto.ClientMsgIDFromBytes(m.ClientMsgId); err != nil {
		return proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	bodies := 0
	for _, given := range []bool{m.Text != nil, m.Location != nil, m.Card != nil, m.File != nil} {
		if given {
			bodies++
		}
	}
	text := m.GetText().GetText()
	switch {
	case bodies > 1:
		return proto.Errorf(proto.CodeBadRequest, "the message has %d bodies: send each by itself", bodies)
	case m.Location != nil:
		return checkPlace(m.Location)
	case m.File != nil:
		return checkFile(m.File)
	case m.Card != nil && m.Card.User == 0:
		return proto.Errorf(proto.CodeBadRequest, "the card names nobody")
	case m.Card != nil:
		return nil // nameCard finds who it is
	case text == "":
		return proto.Errorf(proto.CodeBadRequest, "the message is empty")
	case len(text) > proto.TextBytesMax:
		return proto.Errorf(proto.CodeTooBig, "the text has %d bytes, the limit is %d: send it in parts", len(text), proto.TextBytesMax)
	case !utf8.ValidString(text):
		return proto.Errorf(proto.CodeBadRequest, "the text is not valid UTF-8")
	}
	return nil
}

func checkPlace(p *clientpb.Location) *proto.Error {
	switch {
	case !(math.Abs(p.Latitude) <= 90 && math.Abs(p.Longitude) <= 180): // NaN is neither
		return proto.Errorf(proto.CodeBadRequest, "%g, %g is no place on the map: latitude -90 to 90, longitude -180 to 180", p.Latitude, p.Longitude)
	case len(p.Name) > proto.PlaceNameBytesMax:
		return proto.Errorf(proto.CodeTooBig, "the place's name has %d bytes, the limit is %d", len(p.Name), proto.PlaceNameBytesMax)
	case !utf8.ValidString(p.Name):
		return proto.Errorf(proto.CodeBadRequest, "the place's name is not valid UTF-8")
	}
	return nil
}

// setBody gives the command the message's body. The name on a card and
// what a file is are not the sender's to choose: see nameCard and claimFile.
func setBody(c *cellpb.AppendMessage, m *clientpb.SendMessage) {
	switch {
	case m.Location != nil:
		c.Location = m.Location
	case m.Card != nil:
		c.Card = &clientpb.SharedCard{User: m.Card.User}
	case m.File != nil:
		c.File = m.File
	default:
		c.Text = &cellpb.TextBody{Text: m.GetText().GetText()}
	}
}

// appendBytes is about what the command takes in a batch.
func appendBytes(c *cellpb.AppendMessage) int {
	return 100 + len(c.Text.GetText()) + len(c.Location.GetName()) + len(c.Card.GetName()) + codec.Size(c.File) + codec.Size(c.Live)
}

// nameCard makes sure that the person on a card exists and fills in his name.
func (h *host) nameCard(card *clientpb.SharedCard, done func(*proto.Error)) {
	if card == nil {
		done(nil)
		return
	}
	h.readUser(proto.EntityID(card.User), func(info *cellpb.UserInfo, err *proto.Error) {
		card.Name = info.GetProfile().GetName()
		done(err)
	})
}
