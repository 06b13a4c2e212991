//go:build ignore

// Renderproto writes the third-party .proto files that ours import into a folder, so that none has to be checked in.
// It prints the descriptors that their Go modules carry. Run it by `make generate`:
//
//	go run -modfile=tools/gen.mod tools/renderproto.go build/proto
package main

import (
	"log"
	"os"

	"github.com/jhump/protoreflect/v2/protoprint"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// files are the descriptors to render. What comes with the compiler (google/protobuf/…) is not needed.
var files = []protoreflect.FileDescriptor{
	status.File_google_rpc_status_proto,
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: renderproto FOLDER")
	}
	if err := (&protoprint.Printer{}).PrintProtosToFileSystem(files, os.Args[1]); err != nil {
		log.Fatal("renderproto: ", err)
	}
}
