// Package parcel is the kind "parcel": where a parcel was seen, and who has it.
//
// Invariant: nothing changes a parcel after its delivery.
package parcel

import (
	"github.com/granary-dev/granary/grains"

	parcelv1 "example.com/ownkind/parcel/v1"
)

// maxPlaces are remembered; the state of a grain needs an upper size.
const maxPlaces = 8

// Kind is the declaration of the kind.
var Kind = grains.Kind[*parcelv1.Parcel]{
	Name:     "parcel",
	Version:  1,
	Doc:      "a parcel: where it was seen, and who has it",
	Handlers: grains.Handlers[*parcelv1.Parcel]{grains.On(scanned), grains.On(delivered)},
}

// scanned notes where the parcel was seen. Scans may arrive late: the newest by event time is the last place.
func scanned(t *grains.Turn, s *parcelv1.Parcel, e *parcelv1.Scanned) error {
	switch {
	case e.Place == "":
		return grains.Reject("place is empty")
	case s.DeliveredTo != "":
		return grains.Rejectf("it was delivered to %s", s.DeliveredTo)
	}
	s.Scans++
	if e.Grams != 0 {
		s.Grams = e.Grams
	}
	at := t.EventTime().UnixMicro()
	if at < s.LastSeen {
		return nil
	}
	s.LastSeen = at
	s.Places = append(s.Places, e.Place)
	if len(s.Places) > maxPlaces {
		s.Places = s.Places[1:]
	}
	return nil
}

// delivered ends the way of the parcel.
func delivered(_ *grains.Turn, s *parcelv1.Parcel, e *parcelv1.Delivered) error {
	switch {
	case e.To == "":
		return grains.Reject("to is empty")
	case s.DeliveredTo != "" && s.DeliveredTo != e.To:
		return grains.Rejectf("it was delivered to %s", s.DeliveredTo)
	}
	s.DeliveredTo = e.To
	return nil
}
