package state

import (
	"math"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// checkBody refuses a message that is not exactly one thing, within its
// limits.
func checkBody(c *cellpb.AppendMessage) *cellpb.Result {
	bodies := 0
	for _, given := range []bool{c.Text != nil, c.Location != nil, c.Card != nil, c.File != nil, c.Live != nil} {
		if given {
			bodies++
		}
	}
	text, place, card := c.Text.GetText(), c.Location, c.Card
	switch {
	case bodies != 1 || c.Text != nil && text == "":
		return refusef(proto.CodeBadRequest, "the message is empty, or has more than one body")
	case len(text) > proto.TextBytesMax:
		return refusef(proto.CodeTooBig, "the text has %d bytes, the limit is %d", len(text), proto.TextBytesMax)
	case place != nil && !(math.Abs(place.Latitude) <= 90 && math.Abs(place.Longitude) <= 180): // NaN is neither
		return refusef(proto.CodeBadRequest, "%g, %g is no place on the map: latitude -90 to 90, longitude -180 to 180",
			place.Latitude, place.Longitude)
	case len(place.GetName()) > proto.PlaceNameBytesMax:
		return refusef(proto.CodeTooBig, "the place's name has %d bytes, the limit is %d", len(place.GetName()), proto.PlaceNameBytesMax)
	case card != nil && (card.User == 0 || len(card.Name) > proto.NameBytesMax):
		return refusef(proto.CodeBadRequest, "the card names nobody")
	case c.File != nil:
		return checkFileBody(proto.EntityID(c.From), c.File)
	case c.Live != nil:
		return checkLiveBody(proto.EntityID(c.From), c.Live)
	}
	return nil
}

// setBody gives the event the message's body.
func setBody(event *cellpb.StoredEvent, c *cellpb.AppendMessage) {
	switch {
	case c.Location != nil:
		event.Body = &cellpb.StoredEvent_Location{Location: c.Location}
	case c.Card != nil:
		event.Body = &cellpb.StoredEvent_Card{Card: c.Card}
	case c.File != nil:
		event.Body = &cellpb.StoredEvent_File{File: c.File}
	case c.Live != nil:
		event.Body = &cellpb.StoredEvent_Live{Live: c.Live}
	default:
		event.Body = &cellpb.StoredEvent_Text{Text: c.Text}
	}
}
